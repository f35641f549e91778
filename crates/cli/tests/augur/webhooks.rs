//! Webhooks of the running program: a receiver of the test's own gets them, signed; and the key that they depend on.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime},
};

use prediction::PredictionId;
use serde_json::{Value, json};
use servers::answered;
use tokio::time::timeout;
use webhook::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, Secret, Signed, verify};

use crate::{
    once::{Ran, augur, command, ended, until},
    receiver::{Received, Receiver},
    served::{MODELS, Served, flag, serve},
};

/// Far longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Two keys, each the base64 of 32 bytes.
const KEY: &str = "AUGUR_WEBHOOK_KEY=AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const OTHER_KEY: &str = "AUGUR_WEBHOOK_KEY=AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
/// Where the tests' receivers are.
const ALLOW: &str = "--webhook-allow=127.0.0.0/8";

impl Served {
    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let call = reqwest::Client::new().post(format!("{}{path}", self.address)).json(body);
        // However often it is sent: webhooks are counted here.
        answered(call.header("Idempotency-Key", PredictionId::generate().to_string())).await
    }

    async fn submit_with_webhook(&self, input: &Value, url: &str) -> (u16, Value) {
        self.post("/v1/models/augur/echo/predictions", &json!({ "input": input, "webhook": url })).await
    }

    async fn secret(&self) -> Secret {
        let call = reqwest::Client::new().get(format!("{}/v1/webhooks/default/secret", self.address));
        let (_, answer) = answered(call).await;
        answer["key"].as_str().expect("there is a key").parse().expect("it is a secret")
    }
}

/// The next webhook, which the secret has signed.
async fn received(receiver: &mut Receiver, secret: &Secret) -> Received {
    let received = timeout(PATIENCE, receiver.next()).await.expect("a webhook comes in time");
    let [id, timestamp, signature] =
        [HEADER_ID, HEADER_TIMESTAMP, HEADER_SIGNATURE].map(|name| received.header(name).to_owned());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let signed = Signed { id: &id, timestamp: &timestamp, signature: &signature };
    verify(secret, signed, &received.body, i64::try_from(now).expect("a time")).expect("it is signed");
    received
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_set_up_webhooks_arrive_signed_also_after_a_restart() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (data, mut receiver) = (directory.path().join("data"), Receiver::start().await);
    let (flag, key_file) = (flag("data-dir", &data), data.join("webhook.key"));
    let mut secrets = Vec::new();
    for _ in 0..2 {
        let served = serve(&[&flag, ALLOW]).await;
        let secret = served.secret().await;
        let (status, accepted) = served.submit_with_webhook(&json!({ "value": "told" }), &receiver.url).await;
        assert_eq!(status, 202, "{accepted}");
        let mut events = Vec::new();
        for _ in 0..2 {
            let webhook = received(&mut receiver, &secret).await;
            let prediction: Value = serde_json::from_slice(&webhook.body).expect("the body is JSON");
            assert_eq!((&prediction["id"], &prediction["output"]), (&accepted["id"], &json!("told")), "{prediction}");
            let get = prediction["urls"]["get"].as_str().expect("it says where it is");
            assert!(get.starts_with(&served.address), "{get}");
            events.push(webhook.header("augur-event").to_owned());
        }
        events.sort();
        assert_eq!(events, ["completed", "output"]);
        secrets.push(secret.reveal());
        assert!(!served.process.log().contains("whsec_"), "{}", served.process.log());
        served.stop().await;
    }
    assert_eq!(secrets[0], secrets[1], "what was sealed can be opened after a restart");
    assert_eq!((mode(&key_file), mode(&data)), (0o600, 0o700));
    let names = fs::read_dir(&data).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    assert!(names.map(|name| name.to_string_lossy().into_owned()).all(|name| !name.starts_with(".tmp")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finished_while_the_server_stopped_is_told_all_the_same() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (data, mut receiver) = (flag("data-dir", directory.path()), Receiver::start().await);
    let served = serve(&[&data, ALLOW]).await;
    let secret = served.secret().await;
    let input = json!({ "value": "last", "sleep_ms": 1000 });
    let (status, accepted) = served.submit_with_webhook(&input, &receiver.url).await;
    assert_eq!(status, 202, "{accepted}");
    served.begun(accepted["id"].as_str().expect("it has an id")).await;
    served.stop().await;
    // By the server that stopped, or by the next one.
    let served = serve(&[&data, ALLOW]).await;
    for _ in 0..2 {
        let webhook = received(&mut receiver, &secret).await;
        let prediction: Value = serde_json::from_slice(&webhook.body).expect("the body is JSON");
        assert_eq!((&prediction["id"], &prediction["output"]), (&accepted["id"], &json!("last")), "{prediction}");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_receivers_are_refused_unless_allowed() {
    let receiver = Receiver::start().await;
    let served = serve(&[]).await;
    let (status, problem) = served.submit_with_webhook(&json!({ "value": 1 }), &receiver.url).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/webhook")), "{problem}");
    served.stop().await;

    let ran = augur(&["serve", "--listen=127.0.0.1:0", "--webhook-allow=10/8"]).await;
    assert_eq!((ran.status, ran.out.as_str()), (Some(2), ""), "{ran:?}");
    assert!(ran.err.contains("--webhook-allow (AUGUR_WEBHOOK_ALLOW): \"10/8\""), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_set_goes_before_the_file_and_doctor_knows_the_right_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = flag("data-dir", directory.path());
    let served = serve(&[&data, KEY]).await;
    served.secret().await;
    served.stop().await;
    assert!(!directory.path().join("webhook.key").exists(), "no file is made when there is a key");

    let line =
        |ran: &Ran| ran.out.lines().find(|line| line[6..].starts_with("webhooks")).expect("there is a line").to_owned();
    let doctor = async |variable: &str, status: i32, words: &str| {
        let run = || {
            let mut command = command(&["doctor", &data, "--models-dir", MODELS, "--listen=127.0.0.1:0"]);
            if let Some((name, value)) = variable.split_once('=') {
                command.env(name, value);
            }
            ended(command, "")
        };
        // On a busy machine a check may not end in its time.
        let is_so = |ran: &Ran| ran.status == Some(status) && line(ran).contains(words);
        let ran = until(run, is_so).await;
        assert!(is_so(&ran), "{ran:?}");
        line(&ran)
    };
    assert!(doctor(KEY, 0, "opens the stored").await.starts_with("ok "));
    assert!(doctor(OTHER_KEY, 1, "0 of 1 stored").await.starts_with("FAIL "));
    let refused = doctor("AUGUR_WEBHOOK_KEY=s3cret", 1, "").await;
    assert!(refused.starts_with("FAIL ") && !refused.contains("s3cret"), "{refused}");
    doctor("", 0, "webhook.key is made at the first start").await;
}

#[tokio::test]
async fn a_key_file_that_is_none_ends_it_with_a_clear_word() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (data, key_file) = (flag("data-dir", directory.path()), directory.path().join("webhook.key"));
    let arguments = ["serve", &data, "--enable-echo", "--models-dir=none", "--listen=127.0.0.1:0"];
    fs::write(&key_file, "s3cret\n").expect("a temporary file");
    let ran = augur(&arguments).await;
    assert_eq!((ran.status, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains("webhook.key holds no webhook key") && !ran.err.contains("s3cret"), "{}", ran.err);

    fs::remove_file(&key_file).and_then(|()| fs::create_dir(&key_file)).expect("a directory in its place");
    let ran = augur(&arguments).await;
    assert_eq!((ran.status, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains("webhook.key cannot be read"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_there_are_webhooks_once_a_key_is_set() {
    let database = format!("--database-url={}", servers::database().await);
    let mut receiver = Receiver::start().await;
    let served = serve(&[&database, "--migrate", ALLOW]).await;
    let (status, problem) = served.submit_with_webhook(&json!({ "value": 1 }), &receiver.url).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/webhook")), "{problem}");
    assert!(
        problem["errors"][0]["detail"].as_str().is_some_and(|said| said.contains("AUGUR_WEBHOOK_KEY")),
        "{problem}"
    );
    assert_eq!(served.process.log().matches("webhooks are off").count(), 1, "{}", served.process.log());
    served.stop().await;

    let served = serve(&[&database, KEY, ALLOW]).await;
    let secret = served.secret().await;
    let (status, accepted) = served.submit_with_webhook(&json!({ "value": 1 }), &receiver.url).await;
    assert_eq!(status, 202, "{accepted}");
    received(&mut receiver, &secret).await;
    served.stop().await;
}
