//! Where settings come from, as the running program shows.

use std::{fs, path::Path};

use crate::{
    once::{augur, command, ended},
    served::{MODELS, flag, serve},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("augur.toml");
    let addresses = [0; 3].map(|_| format!("127.0.0.1:{}", servers::free_port()));
    fs::write(&path, format!("listen = \"{}\"\n", addresses[0])).expect("a temporary file");
    let (config, variable, flag) =
        (flag("config", &path), format!("AUGUR_LISTEN={}", addresses[1]), format!("--listen={}", addresses[2]));
    // An empty variable counts as none.
    let cases = [
        (vec![config.as_str(), "AUGUR_LISTEN=", "DATABASE_URL="], &addresses[0]),
        (vec![&config, &variable], &addresses[1]),
        (vec![&config, &variable, &flag], &addresses[2]),
    ];
    for (settings, expected) in cases {
        let served = serve(&settings).await;
        assert_eq!(served.address, format!("http://{expected}"));
        served.stop().await;
    }
}

#[tokio::test]
async fn a_bad_file_is_one_clear_sentence() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("augur.toml");
    for (text, said) in [("slots = \"many\"", "bad value for \"slots\""), ("slot = 3", "a key \"slot\"")] {
        fs::write(&path, text).expect("a temporary file");
        let mut command = command(&["serve"]);
        command.env("AUGUR_CONFIG", &path);
        let ran = ended(command, "").await;
        assert_eq!((ran.status, ran.out.as_str(), ran.err.lines().count()), (Some(2), "", 1), "{ran:?}");
        assert!(ran.err.starts_with("error: the configuration file ") && ran.err.contains(said), "{}", ran.err);
    }
}

#[tokio::test]
async fn a_device_that_cannot_be_had_is_one_clear_sentence() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", directory.path());
    for (device, said) in [("gpu", "no device is called \"gpu\""), ("cuda:99", "cuda:99")] {
        let ran = augur(&["serve", &data, "--enable-echo", "--models-dir=none", "--device", device]).await;
        assert_eq!((ran.status, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains(said), "{}", ran.err);
    }
}

#[tokio::test]
async fn models_compute_with_the_instructions_that_are_named() {
    let models_dir = flag("models-dir", Path::new(MODELS));
    let bench = ["models", "bench", "digits", "--each=1ms", &models_dir];
    let mut by_environment = command(&bench);
    by_environment.env("AUGUR_ISA", "portable");
    let by_flag = command(&[&bench[..], &["--isa=portable"]].concat());
    for command in [by_environment, by_flag] {
        let ran = ended(command, "").await;
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        assert!(ran.out.contains(", cpu, portable, "), "{}", ran.out);
    }
    let ran = augur(&[&bench[..], &["--isa=sse"]].concat()).await;
    assert!(ran.status == Some(2) && ran.err.contains("sse"), "{ran:?}");
}

#[tokio::test]
async fn it_does_not_serve_beyond_this_machine_unasked() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", directory.path());
    for address in ["0.0.0.0:0", "[::]:0"] {
        let ran = augur(&["serve", &data, "--enable-echo", "--models-dir=none", "--listen", address]).await;
        assert_eq!((ran.status, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains(address) && ran.err.contains("--allow-remote"), "{}", ran.err);
    }
}

#[tokio::test]
async fn every_command_explains_itself_and_shows_no_secret() {
    let of_keys = ["keys", "keys create", "keys ls", "keys rotate", "keys revoke"];
    let of_models = ["models ls", "models inspect", "models add", "models pull", "models bench"];
    for name in
        ["", "serve", "demo", "predict", "models", "migrate", "doctor"].into_iter().chain(of_models).chain(of_keys)
    {
        let arguments: Vec<&str> = name.split_whitespace().chain(["--help"]).collect();
        let mut command = command(&arguments);
        command.env("DATABASE_URL", "postgres://augur:s3cret@db/augur").env("REDIS_URL", "redis://:s3cret@redis");
        command.env("AUGUR_WEBHOOK_KEY", "s3cret").env("HF_TOKEN", "s3cret").env("AUGUR_API_KEY", "s3cret");
        let ran = ended(command, "").await;
        assert_eq!(ran.status, Some(0), "{ran:?}");
        assert!(ran.out.contains("Usage: augur") && !ran.out.contains("s3cret"), "{}", ran.out);
    }
    let ran = augur(&["--version"]).await;
    assert_eq!(ran.out, format!("augur {}\n", env!("CARGO_PKG_VERSION")));
    let ran = augur(&[]).await;
    assert_eq!(ran.status, Some(2), "{ran:?}");
    assert!(ran.err.contains("Commands:"), "{}", ran.err);
}
