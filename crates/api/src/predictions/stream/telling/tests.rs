//! What a client is told, whatever is sent and lost on the way.

use prediction::{Events, Metrics, Priority};
use serde_json::{json, value::RawValue};
use time::OffsetDateTime;

use super::*;

/// Everything that was sent, as events' names, ids and data.
type Told = Vec<(String, String, String)>;

fn telling(told: Mark, writes_text: bool) -> (Telling, mpsc::Receiver<Bytes>) {
    let (events, sent) = mpsc::channel(1000);
    (Telling::new(told, 0, writes_text, events), sent)
}

fn read(sent: &mut mpsc::Receiver<Bytes>) -> Told {
    let all: Vec<Bytes> = std::iter::from_fn(|| sent.try_recv().ok()).collect();
    let parse = |event: &Bytes| {
        let text = std::str::from_utf8(event).expect("UTF-8").strip_suffix("\n\n").expect("a whole event").to_owned();
        let field = |name: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name));
            lines.collect::<Vec<_>>().join("\n")
        };
        (field("event: "), field("id: "), field("data: "))
    };
    all.iter().map(parse).collect()
}

fn texts(told: &Told) -> String {
    told.iter().filter(|(name, ..)| name == "output").map(|(.., data)| data.as_str()).collect()
}

fn piece(epoch: i32, from: usize, text: &str) -> Piece {
    Piece { id: PredictionId(uuid::Uuid::nil()), epoch, draft: 1, from: from as u64, text: text.into() }
}

fn finished(status: Status, output: Option<&serde_json::Value>, failure: Option<Failure>) -> Prediction {
    Prediction {
        id: PredictionId::generate(),
        model: "my/model".parse().expect("a name"),
        version: "0".repeat(64).parse().expect("a version"),
        status,
        input: None,
        output: output.map(|output| RawValue::from_string(output.to_string()).expect("JSON")),
        error: None,
        failure,
        logs: String::new(),
        metrics: Metrics::default(),
        created_at: OffsetDateTime::UNIX_EPOCH,
        started_at: None,
        completed_at: None,
        deadline_at: None,
        expires_at: None,
        data_removed: false,
        source: "api",
        attempt: 2,
        priority: Priority::Normal,
        metadata: None,
        webhook: None,
        webhook_events_filter: None::<Events>,
        queue: None,
        urls: None,
    }
}

fn wrote(text: &str) -> Prediction {
    finished(Status::Succeeded, Some(&json!({"text": text, "finish_reason": "stop"})), None)
}

#[tokio::test]
async fn pieces_and_then_the_rest_make_the_text() {
    let (mut telling, mut sent) = telling(Mark::default(), true);
    assert!(telling.piece(&piece(1, 0, "The ")).await.is_ok());
    assert!(telling.piece(&piece(1, 4, "light\nh\u{f6}")).await.is_ok());
    // What came in between was lost.
    assert!(telling.end(&wrote("The light\nh\u{f6}use")).await.is_err());
    let told = read(&mut sent);
    let datas: Vec<_> = told.iter().map(|(name, _, data)| (name.as_str(), data.as_str())).collect();
    assert_eq!(datas, [("output", "The "), ("output", "light\nh\u{f6}"), ("output", "use"), ("done", "{}")]);
    assert!(told[0].1.starts_with("1:4:") && told[2].1.starts_with("2:16:") && told[3].1 == told[2].1, "{told:?}");
}

#[tokio::test]
async fn from_every_id_the_rest_follows() {
    let whole = "a\r\nb\u{1F6A2}\n\nc";
    let (mut first, mut sent) = telling(Mark::default(), true);
    let mut from = 0;
    for character in whole.chars() {
        let text = character.to_string();
        assert!(first.piece(&piece(1, from, &text)).await.is_ok());
        from += text.len();
    }
    let told = read(&mut sent);
    assert_eq!(texts(&told), "a\nb\u{1F6A2}\n\nc");
    for (number, (_, id, _)) in told.iter().enumerate() {
        let before: String = told[..=number].iter().map(|(.., data)| data.as_str()).collect();
        let (mut again, mut sent) = telling(Mark::parse(id).expect("an id"), true);
        // A part of it from a later run, and the rest from the store.
        assert!(again.piece(&piece(3, 0, &whole[..4])).await.is_ok());
        assert!(again.end(&wrote(whole)).await.is_err());
        let told = read(&mut sent);
        assert_eq!(before + &texts(&told), "a\nb\u{1F6A2}\n\nc", "after {id}");
        assert_eq!(told.last().map(|(name, ..)| name.as_str()), Some("done"));
    }
}

#[tokio::test]
async fn another_run_goes_on_where_the_client_is() {
    let (mut telling, mut sent) = telling(Mark::default(), true);
    assert!(telling.piece(&piece(1, 0, "The light")).await.is_ok());
    assert!(telling.piece(&piece(4, 0, "The ")).await.is_ok());
    assert!(telling.piece(&piece(4, 4, "lighthouse")).await.is_ok());
    let told = read(&mut sent);
    assert_eq!(texts(&told), "The lighthouse");
    assert!(told[1].1.starts_with("2:14:"), "{told:?}");
}

#[tokio::test]
async fn a_text_that_differs_is_never_told() {
    let ends_in_error = |told: Told| {
        let names: Vec<_> = told.iter().map(|(name, ..)| name.as_str()).collect();
        assert!(names.ends_with(&["error", "done"]), "{told:?}");
        assert_eq!(told.last().expect("one").2, r#"{"reason":"error"}"#);
        texts(&told)
    };
    for other in ["The lamp", "", "The ligh", "The ligh\u{f6}", "The darkness of it"] {
        let (mut telling, mut sent) = telling(Mark::default(), true);
        assert!(telling.piece(&piece(1, 0, "The light")).await.is_ok());
        assert!(telling.end(&wrote(other)).await.is_err());
        assert_eq!(ends_in_error(read(&mut sent)), "The light", "{other}");
    }
    let (mut telling, mut sent) = telling(Mark::default(), true);
    assert!(telling.piece(&piece(1, 0, "The light")).await.is_ok());
    assert!(telling.piece(&piece(2, 0, "The darkness")).await.is_err());
    assert_eq!(ends_in_error(read(&mut sent)), "The light");
}

#[tokio::test]
async fn ends_are_told_with_their_reasons() {
    let failure = Failure::new(FailureCode::Timeout, "too long");
    let all = [
        (finished(Status::Failed, None, Some(failure.clone())), r#"{"reason":"error"}"#, vec!["error", "done"]),
        (finished(Status::Canceled, None, Some(failure)), r#"{"reason":"canceled"}"#, vec!["done"]),
        (finished(Status::Succeeded, None, None), "{}", vec!["done"]),
    ];
    for (prediction, data, names) in all {
        let (mut telling, mut sent) = telling(Mark::default(), false);
        assert!(telling.end(&prediction).await.is_err());
        let told = read(&mut sent);
        assert_eq!(told.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(told.last().expect("one").2, data);
    }
}

#[tokio::test]
async fn what_is_no_text_is_told_whole() {
    let output = json!({"label": "a\nb", "list": vec![1.5; 9000]});
    let (mut first, mut sent) = telling(Mark::default(), false);
    assert!(first.end(&finished(Status::Succeeded, Some(&output), None)).await.is_err());
    let told = read(&mut sent);
    assert_eq!((told.len(), &told[0].2), (2, &output.to_string()));
    let (mut again, mut sent) = telling(Mark::parse(&told[0].1).expect("an id"), false);
    assert!(again.end(&finished(Status::Succeeded, Some(&output), None)).await.is_err());
    assert_eq!(read(&mut sent).len(), 1, "only the end");
    // Ids that are none of this output's.
    for id in ["1:5:bf9cf968", "1:99999999:bf9cf968", &format!("2:{}:bf9cf968", output.to_string().len())] {
        let (mut again, mut sent) = telling(Mark::parse(id).expect("an id"), false);
        assert!(again.end(&finished(Status::Succeeded, Some(&output), None)).await.is_err());
        let other = read(&mut sent);
        assert_eq!((other.len(), &other[0].2, &other[1].0), (2, &output.to_string(), &"done".to_owned()), "{id}");
    }
    // A generator's whose output is none: what was told of a text was of another.
    for (id, names) in [("1:0:811c9dc5", ["output", "done"]), ("1:6:bf9cf968", ["error", "done"])] {
        let (mut again, mut sent) = telling(Mark::parse(id).expect("an id"), true);
        assert!(again.end(&finished(Status::Succeeded, Some(&output), None)).await.is_err());
        assert_eq!(read(&mut sent).iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), names);
    }
    let long = "x".repeat(LONGEST_TEXT * 2 + 1);
    let (mut other, mut sent) = telling(Mark::default(), true);
    assert!(other.end(&wrote(&long)).await.is_err());
    let told = read(&mut sent);
    assert_eq!((told.len(), texts(&told)), (4, long));
}
