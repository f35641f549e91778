//! The fingerprint of a request: equal for repetitions however they are spelt, different for all else.

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use store::Webhook;

use crate::predictions::CreateRequest;

/// SHA-256 over what was asked for: the model or version as it was named (not the version it led to, which may be
/// another one at the repetition), input and metadata as values, priority, deadline, and the webhook as it was vetted.
pub(crate) fn of(request: &CreateRequest, webhook: Option<&Webhook>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"augur request 1\0");
    let target = request.target.to_string();
    hash.update((target.len() as u64).to_be_bytes());
    hash.update(target);
    hash.update(request.priority.code().to_be_bytes());
    // One more than the milliseconds, so that none and zero differ.
    let deadline = request.deadline.map_or(0, |deadline| deadline.as_millis() + 1);
    hash.update(deadline.to_be_bytes());
    value(&request.input_value, &mut hash);
    value(request.metadata_value.as_ref().unwrap_or(&Value::Null), &mut hash);
    if let Some(webhook) = webhook {
        text(b"w", &webhook.url, &mut hash);
        hash.update(webhook.events.bits().to_be_bytes());
    }
    hash.finalize().into()
}

/// A value with its kind and length before it and the members of objects sorted: no two values give the same bytes.
fn value(any: &Value, hash: &mut Sha256) {
    match any {
        Value::Null => hash.update(b"z"),
        Value::Bool(truth) => hash.update(if *truth { b"t" } else { b"f" }),
        Value::Number(number) => text(b"n", &number.to_string(), hash),
        Value::String(string) => text(b"s", string, hash),
        Value::Array(values) => {
            hash.update(b"a");
            hash.update((values.len() as u64).to_be_bytes());
            values.iter().for_each(|inner| value(inner, hash));
        }
        Value::Object(members) => {
            hash.update(b"o");
            hash.update((members.len() as u64).to_be_bytes());
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            for (name, inner) in sorted {
                text(b"k", name, hash);
                value(inner, hash);
            }
        }
    }
}

fn text(kind: &[u8], text: &str, hash: &mut Sha256) {
    hash.update(kind);
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(body: &str) -> [u8; 32] {
        let request = CreateRequest::parse(body, None).expect("a good request");
        let webhook = request.webhook.clone().map(|(url, events)| {
            let (endpoint, origin) = (url.clone(), url.clone());
            Webhook { url, endpoint, origin, events }
        });
        of(&request, webhook.as_ref())
    }

    #[test]
    fn spelling_does_not_matter_and_everything_else_does() {
        let plain = fingerprint(r#"{"model":"a/b","input":{"x":1,"y":["é",1.0]}}"#);
        for same in [
            r#" { "input" : {"y":["\u00e9", 1.0], "x":1}, "version":"a/b", "stream": false, "priority":"normal"} "#,
            r#"{"model":"A/b","input":{"x":1,"y":["é",1.0]},"webhook":null,"metadata":null}"#,
        ] {
            assert_eq!(fingerprint(same), plain, "{same}");
        }
        for other in [
            r#"{"model":"a/c","input":{"x":1,"y":["é",1.0]}}"#,
            r#"{"model":"a/b","input":{"x":2,"y":["é",1.0]}}"#,
            r#"{"model":"a/b","input":{"x":1,"y":["é"]}}"#,
            r#"{"model":"a/b","input":{"x":"1","y":["é",1.0]}}"#,
            r#"{"model":"a/b","input":{"x":1,"y":["é",1.0]},"priority":"high"}"#,
            r#"{"model":"a/b","input":{"x":1,"y":["é",1.0]},"deadline":"5s"}"#,
            r#"{"model":"a/b","input":{"x":1,"y":["é",1.0]},"metadata":{}}"#,
            r#"{"model":"a/b","input":{"x":1,"y":["é",1.0]},"webhook":"https://a.example/"}"#,
        ] {
            assert_ne!(fingerprint(other), plain, "{other}");
        }
    }

    #[test]
    fn a_webhook_and_its_events_count_but_not_how_they_are_listed() {
        let with = |webhook: &str, events: &str| {
            fingerprint(&format!(
                r#"{{"model":"a/b","input":1,"webhook":"{webhook}","webhook_events_filter":{events}}}"#
            ))
        };
        let usual = with("https://a.example/", "null");
        assert_eq!(with("https://a.example/", r#"["completed","output","completed"]"#), usual);
        assert_ne!(with("https://a.example/", r#"["completed"]"#), usual);
        assert_ne!(with("https://a.example/?b", "null"), usual);
    }
}
