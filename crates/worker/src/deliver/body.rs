//! What a webhook says: the prediction as it was when the event happened, as a pure function of what is stored and the event,
//! so that every attempt of a delivery sends the same bytes.

use bytes::Bytes;
use prediction::{BodyForm, Event, Metrics, ModelName, Prediction, Priority, Status, Urls};
use serde::Serialize;
use serde_json::value::to_raw_value;
use store::ClaimedDelivery;
use time::OffsetDateTime;

/// The form that Standard Webhooks recommends.
#[derive(Serialize)]
struct Envelope<'a> {
    r#type: String,
    #[serde(with = "time::serde::rfc3339")]
    timestamp: OffsetDateTime,
    data: &'a Prediction,
}

/// The body of a delivery about this prediction, in the form that its endpoint wants. `public_url` is the API's address,
/// where it is known.
///
/// # Panics
/// Never: what is stored was JSON, and its times have four digits of years.
pub(super) fn of(delivery: &ClaimedDelivery, prediction: Prediction, public_url: Option<&str>) -> Bytes {
    let event = delivery.sending.id.event;
    let mut prediction = then(prediction, event);
    prediction.urls = public_url.filter(|_| event != Event::Test).map(|base| Urls::of(prediction.id, base));
    let body = match delivery.body {
        BodyForm::Prediction => serde_json::to_vec(&prediction),
        BodyForm::Event => serde_json::to_vec(&Envelope {
            r#type: format!("prediction.{event}"),
            timestamp: delivery.created_at,
            data: &prediction,
        }),
    };
    body.expect("a prediction is JSON").into()
}

/// The prediction as it was when this happened to it.
fn then(prediction: Prediction, event: Event) -> Prediction {
    if matches!(event, Event::Completed | Event::Test) {
        return prediction;
    }
    let queue_time = match event {
        // Whatever came of the first run, it is that run's start.
        Event::Start => prediction.started_at.map(|started_at| (started_at - prediction.created_at).as_seconds_f64()),
        _ => prediction.metrics.queue_time,
    };
    Prediction {
        status: Status::Processing,
        output: prediction.output.filter(|_| event == Event::Output),
        error: None,
        failure: None,
        logs: if event == Event::Logs { prediction.logs } else { String::new() },
        metrics: Metrics { queue_time, ..Metrics::default() },
        completed_at: None,
        expires_at: None,
        attempt: if event == Event::Start { 1 } else { prediction.attempt },
        ..prediction
    }
}

/// The prediction that a test is about. There is none, and it says so.
pub(super) fn made_up(delivery: &ClaimedDelivery) -> Prediction {
    let at = delivery.created_at;
    let text = |text: &str| Some(to_raw_value(text).expect("a text is JSON"));
    Prediction {
        id: delivery.sending.id.prediction,
        model: ModelName::local("test").expect("a good name"),
        version: "0".repeat(64).parse().expect("a good version"),
        status: Status::Succeeded,
        input: text("This is a test of your webhook."),
        output: text("It works. There is no such prediction."),
        error: None,
        failure: None,
        logs: String::new(),
        metrics: Metrics::default(),
        created_at: at,
        started_at: Some(at),
        completed_at: Some(at),
        deadline_at: None,
        expires_at: None,
        data_removed: false,
        source: "test",
        attempt: 1,
        priority: Priority::Normal,
        metadata: None,
        webhook: Some(delivery.url.clone()),
        webhook_events_filter: None,
        queue: None,
        urls: None,
    }
}

#[cfg(test)]
mod tests {
    use prediction::{DeliveryId, Events, Failure, FailureCode, PredictionId};
    use serde_json::{Value, json, value::RawValue};
    use store::Sending;
    use time::macros::datetime;

    use super::*;

    const CREATED_AT: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
    const STARTED_AT: OffsetDateTime = datetime!(2026-03-01 12:00:01.5 UTC);
    const COMPLETED_AT: OffsetDateTime = datetime!(2026-03-01 12:00:09 UTC);

    fn delivery(event: Event, form: BodyForm) -> ClaimedDelivery {
        ClaimedDelivery {
            sending: Sending { id: DeliveryId { prediction: PredictionId::generate(), event }, epoch: 1 },
            tenant: String::new(),
            url: "https://example.com/hook?x=1".to_owned(),
            endpoint: "https://example.com/hook".to_owned(),
            origin: "https://example.com".to_owned(),
            round: 0,
            claimed_at: COMPLETED_AT,
            created_at: COMPLETED_AT,
            body: form,
            is_disabled: false,
            payload_bytes: 0,
        }
    }

    /// One that succeeded in its second run.
    fn succeeded(delivery: &ClaimedDelivery) -> Prediction {
        let raw = |text: &str| Some(RawValue::from_string(text.to_owned()).expect("JSON"));
        Prediction {
            input: raw(r#"{"n": 1.50}"#),
            output: raw("[1.50]"),
            logs: "one\n".to_owned(),
            metrics: Metrics {
                queue_time: Some(4.0),
                predict_time: Some(5.0),
                total_time: Some(9.0),
                batch_size: Some(2),
                tokens: Some(3),
            },
            created_at: CREATED_AT,
            started_at: Some(STARTED_AT),
            expires_at: Some(COMPLETED_AT),
            source: "api",
            attempt: 2,
            webhook_events_filter: Some(Events::USUAL),
            ..made_up(delivery)
        }
    }

    fn body(event: Event, form: BodyForm, public_url: Option<&str>) -> Value {
        let delivery = delivery(event, form);
        let prediction = Prediction { id: delivery.sending.id.prediction, ..succeeded(&delivery) };
        serde_json::from_slice(&of(&delivery, prediction, public_url)).expect("JSON")
    }

    /// `key` of the bodies of start, output, logs and completed.
    fn over_time(key: &str) -> [Value; 4] {
        [Event::Start, Event::Output, Event::Logs, Event::Completed]
            .map(|event| body(event, BodyForm::Prediction, None)[key].clone())
    }

    #[test]
    fn each_event_tells_what_was_so_when_it_happened() {
        let (processing, null) = (json!("processing"), Value::Null);
        assert_eq!(over_time("status"), [&processing, &processing, &processing, &json!("succeeded")].map(Value::clone));
        assert_eq!(over_time("output"), [&null, &json!([1.5]), &null, &json!([1.5])].map(Value::clone));
        assert_eq!(over_time("logs"), ["", "", "one\n", "one\n"].map(Value::from));
        assert_eq!(over_time("completed_at"), [&null, &null, &null, &json!("2026-03-01T12:00:09Z")].map(Value::clone));
        assert_eq!(over_time("expires_at"), [&null, &null, &null, &json!("2026-03-01T12:00:09Z")].map(Value::clone));
        assert_eq!(over_time("attempt"), [1, 2, 2, 2].map(Value::from));
        assert_eq!(over_time("input"), [(); 4].map(|()| json!({"n": 1.5})));
        let whole = json!({"queue_time": 4.0, "predict_time": 5.0, "total_time": 9.0, "batch_size": 2, "tokens": 3});
        let waited = |seconds: f64| json!({"queue_time": seconds});
        assert_eq!(over_time("metrics"), [waited(1.5), waited(4.0), waited(4.0), whole]);
    }

    #[test]
    fn a_failure_is_told_at_the_end_only() {
        let failed = |event| {
            let delivery = delivery(event, BodyForm::Prediction);
            let failure = Failure::new(FailureCode::ModelError, "no");
            let error = Some(failure.message.clone());
            let prediction = Prediction { error, failure: Some(failure), output: None, ..succeeded(&delivery) };
            serde_json::from_slice::<Value>(&of(&delivery, prediction, None)).expect("JSON")
        };
        for event in [Event::Start, Event::Logs] {
            assert_eq!((&failed(event)["error"], &failed(event)["failure"]), (&Value::Null, &Value::Null));
        }
        assert_eq!(failed(Event::Completed)["failure"]["code"], "model_error");
    }

    #[test]
    fn the_two_forms_hold_the_same_prediction() {
        let delivery = delivery(Event::Completed, BodyForm::Event);
        let enveloped: Value = serde_json::from_slice(&of(&delivery, succeeded(&delivery), None)).expect("JSON");
        assert_eq!(enveloped["type"], "prediction.completed");
        assert_eq!(enveloped["timestamp"], "2026-03-01T12:00:09Z");
        let bare = ClaimedDelivery { body: BodyForm::Prediction, ..delivery };
        let bare: Value = serde_json::from_slice(&of(&bare, succeeded(&bare), None)).expect("JSON");
        assert_eq!(enveloped["data"], bare);
        assert_eq!(bare["webhook"], "https://example.com/hook?x=1");
        assert_eq!(bare["webhook_events_filter"], json!(["output", "completed"]));
    }

    #[test]
    fn addresses_are_told_where_they_are_known() {
        let body = |event, url| body(event, BodyForm::Prediction, url);
        assert_eq!(body(Event::Completed, None).get("urls"), None);
        let told = body(Event::Start, Some("https://augur.example"));
        let get = format!("https://augur.example/v1/predictions/{}", told["id"].as_str().expect("an id"));
        assert_eq!(told["urls"]["get"], get);
        assert_eq!(body(Event::Test, Some("https://augur.example")).get("urls"), None, "there is no such prediction");
    }

    #[test]
    fn a_test_says_that_it_is_one() {
        let delivery = delivery(Event::Test, BodyForm::Event);
        let told: Value = serde_json::from_slice(&of(&delivery, made_up(&delivery), None)).expect("JSON");
        assert_eq!(told["type"], "prediction.test");
        assert_eq!((&told["data"]["source"], &told["data"]["status"]), (&json!("test"), &json!("succeeded")));
    }
}
