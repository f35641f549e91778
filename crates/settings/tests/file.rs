//! What the configuration file may say, and how a mistake in it is told.

use std::{ffi::OsString, fs, net::IpAddr, time::Duration};

use settings::{Augur, AugurApi, AugurCommand, AugurWorker, ParseError, Program, Work, parse};

/// Parses as if started with a configuration file of this text.
fn parsed<P: Program>(text: &str, arguments: &[&str]) -> Result<P, ParseError> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("config.toml");
    fs::write(&path, text).expect("a temporary file");
    let mut all: Vec<OsString> = arguments.iter().map(Into::into).collect();
    all.push("--config".into());
    all.push(path.into());
    parse(all)
}

fn refusal(text: &str) -> String {
    parsed::<AugurWorker>(text, &["augur-worker"]).expect_err("it is refused").to_string()
}

#[test]
fn the_file_goes_before_defaults_and_after_flags() {
    let text = "lease = \"3s\"\nslots = 7\nmigrate = true\nenable-echo = true\nmodel = [\"one\", \"two\"]\n";
    let worker: AugurWorker =
        parsed(text, &["augur-worker", "--slots=8", "--enable-echo=false", "--model", "three"]).expect("it is good");
    assert_eq!(worker.worker.lease, Duration::from_secs(3));
    assert_eq!((worker.worker.slots, worker.worker.max_crashes), (8, 3));
    assert!(worker.schema.migrate && !worker.models.enable_echo);
    assert_eq!(worker.models.model, [std::path::PathBuf::from("three")]);
}

#[test]
fn a_repeatable_setting_is_a_list_or_one() {
    for (text, expected) in
        [("model = [\"a\", \"b\"]", vec!["a", "b"]), ("model = \"a\"", vec!["a"]), ("model = []", vec![])]
    {
        let worker: AugurWorker = parsed(text, &["augur-worker"]).expect("it is good");
        let found: Vec<_> = worker.models.model.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn one_file_serves_all_programs() {
    let text = "slots = 7\nbody-limit = 1000\ndata-dir = \"elsewhere\"";
    assert_eq!(parsed::<AugurApi>(text, &["augur-api"]).expect("it is good").api.body_limit, 1000);
    let augur: Augur = parsed(text, &["augur", "serve"]).expect("it is good");
    let AugurCommand::Serve(serve) = augur.command else { panic!("it was serve") };
    assert_eq!((serve.worker.slots, serve.data.data_dir.to_str()), (7, Some("elsewhere")));
}

#[test]
fn an_unknown_key_is_named() {
    assert!(refusal("sltos = 3").contains("has a key \"sltos\", which is no setting"));
    assert!(refusal("data_dir = \"x\"").ends_with("did you mean \"data-dir\"?"));
    assert!(refusal("config = \"x\"").contains("\"config\""));
    assert!(refusal("keep = true").contains("\"keep\""));
    assert!(refusal("[worker]\nslots = 3").contains("\"worker\""));
}

#[test]
fn a_bad_value_is_named() {
    let cases = [
        ("lease = \"ten\"", "lease"),
        ("lease = 10", "lease"),
        ("lease = \"0s\"", "lease"),
        ("slots = 0", "slots"),
        ("slots = -1", "slots"),
        ("slots = 1.5", "slots"),
        ("slots = [1, 2]", "slots"),
        ("migrate = \"perhaps\"", "migrate"),
        ("listen = \"localhost\"", "listen"),
        ("public-url = \"augur.example.org\"", "public-url"),
        ("log-format = \"xml\"", "log-format"),
        ("log = \"worker=loud\"", "log"),
        ("only = \"webhooks\"", "only"),
        ("deliveries = 0", "deliveries"),
        ("queue-limit = 0", "queue-limit"),
        ("queue-time-limit = 60", "queue-time-limit"),
        ("body-memory = 0", "body-memory"),
    ];
    for (text, key) in cases {
        let said = refusal(text);
        assert!(said.contains(&format!("has a bad value for \"{key}\": ")) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_syntax_error_names_the_line_and_shows_no_secret() {
    let said = refusal("slots = 3\ndatabase-url = \"postgres://augur:s3cret@db\n");
    assert!(said.contains("line 2") && !said.contains("s3cret"), "{said}");
}

#[test]
fn an_absent_file_is_named() {
    let arguments = ["augur-worker", "--config", "/nonexistent/augur.toml"].map(OsString::from);
    let said = parse::<AugurWorker>(arguments).expect_err("it is refused").to_string();
    assert!(said.contains("/nonexistent/augur.toml cannot be read"), "{said}");
}

#[test]
fn webhook_settings_are_read_by_whoever_knows_what_they_mean() {
    let text = "webhook-key = \"7\"\nwebhook-allow = [\"10.0.0.1\", \"::1\"]\ndeliveries = 3\nonly = \"deliveries\"";
    let worker: AugurWorker = parsed(text, &["augur-worker", "--webhook-key=8"]).expect("it is good");
    assert_eq!(worker.webhooks.key::<u8>().expect("it is a number"), Some(8));
    let allowed: Vec<IpAddr> = worker.webhooks.allowed().expect("they are addresses");
    assert_eq!(allowed, ["10.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().expect("an address")));
    assert_eq!((worker.delivery.deliveries, worker.work.only), (3, Some(Work::Deliveries)));

    let api: AugurApi = parsed(text, &["augur-api", "--webhook-allow=10.0.0.2,10.0.0.3"]).expect("it is good");
    assert_eq!(api.webhooks.webhook_allow, ["10.0.0.2", "10.0.0.3"]);
    assert_eq!(api.webhooks.key::<u8>().expect("it is a number"), Some(7));

    let worker: AugurWorker = parsed("", &["augur-worker"]).expect("it is good");
    assert_eq!((worker.webhooks.key::<u8>().expect("there is none"), worker.work.only), (None, None));
    assert_eq!((worker.webhooks.webhook_allow.len(), worker.delivery.deliveries), (0, 256));
}

#[test]
fn a_bad_webhook_setting_is_named_without_showing_the_key() {
    let text = "webhook-key = \"s3cret\"\nwebhook-allow = \"10/8\"";
    let webhooks = parsed::<AugurApi>(text, &["augur-api"]).expect("any text is taken").webhooks;
    let said = webhooks.key::<u8>().expect_err("it is no number");
    assert!(said.to_string().contains("--webhook-key (AUGUR_WEBHOOK_KEY)"), "{said}");
    assert!(said.status() == 2 && !said.to_string().contains("s3cret"), "{said}");
    let said = webhooks.allowed::<IpAddr>().expect_err("it is no address");
    assert!(said.to_string().contains("--webhook-allow (AUGUR_WEBHOOK_ALLOW): \"10/8\""), "{said}");
}

#[test]
fn secrets_do_not_show_in_debug() {
    let text = "database-url = \"postgres://augur:s3cret@db/augur\"\nwebhook-key = \"s3cret\"";
    let worker: AugurWorker = parsed(text, &["augur-worker"]).expect("it is good");
    assert!(!format!("{worker:?}").contains("s3cret"));
}
