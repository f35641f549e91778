//! The Lua scripts, which Redis runs each as one step.

use redis::{Pipeline, Script, aio::MultiplexedConnection};
use std::sync::LazyLock;

/// Adds tickets up to a window; with none, only looks.
pub(crate) static PUSH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(include_str!("prepare.lua"), include_str!("wanted.lua"), include_str!("push.lua")))
});

/// Takes tickets for a consumer.
pub(crate) static TAKE: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("prepare.lua"), include_str!("take.lua"))));

/// Says how many tickets a consumer wants in one entry.
pub(crate) static WANT: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("wanted.lua"), include_str!("want.lua"))));

/// Gives back what a consumer holds, and removes its name.
pub(crate) static LEAVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("leave.lua")));

/// Removes the names of consumers that are gone.
pub(crate) static TIDY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("tidy.lua")));

/// Adds the command that runs a script, up to its keys; its other arguments are the caller's to add.
pub(crate) fn run<'p>(
    pipeline: &'p mut Pipeline,
    script: &Script,
    keys: impl ExactSizeIterator<Item = impl AsRef<str>>,
) -> &'p mut Pipeline {
    pipeline.cmd("EVALSHA").arg(script.get_hash()).arg(keys.len());
    for key in keys {
        pipeline.arg(key.as_ref());
    }
    pipeline
}

/// Makes all scripts known to a server that lost them, or never had them.
pub(crate) async fn load(connection: &mut MultiplexedConnection) -> redis::RedisResult<()> {
    let mut pipeline = redis::pipe();
    for script in [&*PUSH, &*TAKE, &*WANT, &*LEAVE, &*TIDY] {
        pipeline.load_script(script).ignore();
    }
    pipeline.exec_async(connection).await
}
