//! `augur doctor`.

use std::net::TcpListener;

use crate::{
    once::{augur, well},
    served::{MODELS, flag, serve},
};

#[tokio::test]
async fn a_fresh_installation_is_well() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("deep").join("data");
    let ran = well(&["doctor", &flag("data-dir", &data), "--models-dir", MODELS, "--listen=127.0.0.1:0"]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.out.lines().count() == 7 && ran.out.lines().all(|line| line.starts_with("ok ")), "{}", ran.out);
    assert!(ran.out.contains("augur/digits"), "{}", ran.out);
    assert!(!data.exists(), "it changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_named_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = format!("--listen={}", taken.local_addr().expect("it has an address"));
    let nobody = servers::free_port();
    let (database, redis) = (
        format!("--database-url=postgres://augur:s3cret@127.0.0.1:{nobody}/augur"),
        format!("--redis-url=redis://:s3cret@127.0.0.1:{nobody}"),
    );
    let ran = augur(&["doctor", &listen, &database, &redis, "--models-dir=/nonexistent/models"]).await;
    assert_eq!((ran.status, ran.err.as_str()), (Some(1), "error: 4 checks failed\n"), "{ran:?}");
    for (part, advice) in
        [("database", "--database-url"), ("queue", "--redis-url"), ("models", "--models-dir"), ("port", "--listen")]
    {
        let begin = format!("FAIL  {part}");
        let line = ran.out.lines().find(|line| line.starts_with(&begin)).unwrap_or_default();
        assert!(line.contains(advice), "{part}:\n{}", ran.out);
    }
    assert!(ran.out.contains("ok    webhooks  off") && !ran.out.contains("s3cret"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_seen() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", directory.path());
    let served = serve(&[&data]).await;
    let listen = served.address.replace("http://", "--listen=");
    let ran = augur(&["doctor", &data, &listen, "--enable-echo", "--models-dir=none"]).await;
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(ran.out.contains("is used by another running augur") && ran.out.contains("is used by another program"));
    served.stop().await;
}

#[tokio::test]
async fn every_broken_model_is_named() {
    let home = tempfile::tempdir().expect("a temporary directory");
    for model in ["augur/one", "augur/two"] {
        let dir = home.path().join("models").join(model);
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("model.toml"), "no manifest").expect("writes");
    }
    let [data, models] =
        ["data-dir", "models-dir"].map(|name| flag(name, &home.path().join(name.trim_end_matches("-dir"))));
    let ran = augur(&["doctor", &data, &models, "--listen=127.0.0.1:0"]).await;
    assert_eq!(ran.status, Some(1), "{ran:?}");
    assert!(
        ran.out.contains("FAIL  models") && ran.out.contains("augur/one") && ran.out.contains("augur/two"),
        "{}",
        ran.out
    );
}
