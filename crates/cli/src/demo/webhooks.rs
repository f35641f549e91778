//! The step of the demonstration in which a webhook arrives: signed, verified, and refused when altered.

use std::time::SystemTime;

use settings::{Fatal, say};
use tokio::time::{Instant, timeout};
use webhook::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, Rejected, Secret, Signed, verify};

use crate::{
    client::{Answer, Client, Webhook},
    demo::{
        receiver::{Received, Receiver},
        steps::{self, FlowerOutput, PATIENCE},
    },
    screen::milliseconds,
};

/// What is asked for: word of the end.
pub(crate) const EVENTS: &[&str] = &["completed"];

/// A flower once more: nobody asks for the answer, it is brought.
pub(crate) async fn receive(client: &Client) -> Result<(), Fatal> {
    say("\n5. Send the flower with a webhook, and be told when it is finished");
    let secret: Secret = client.webhook_secret().await?.parse()?;
    let mut receiver = Receiver::start().await?;
    let url = receiver.url.clone();
    let sent = Instant::now();
    let webhook = Webhook { url: &url, events: EVENTS };
    let accepted = client.submit_with_webhook(&steps::flower_model()?, &steps::flower_input()?, webhook).await?;
    let Ok(Some(received)) = timeout(PATIENCE, receiver.next()).await else {
        return Err(Fatal::new(format!("no webhook of the prediction {} came within {PATIENCE:?}", accepted.id)));
    };
    let after = sent.elapsed();
    say(format_args!("   POST {url}"));
    for name in [HEADER_ID, HEADER_TIMESTAMP, HEADER_SIGNATURE, "augur-event"] {
        say(format_args!("   {name}: {}", received.header(name)));
    }
    check(&secret, &received, &received.body)?;
    let answer: Answer = serde_json::from_slice(&received.body)?;
    if answer.id != accepted.id {
        return Err(Fatal::new(format!("the webhook is of {}, and {} was sent", answer.id, accepted.id)));
    }
    let output: FlowerOutput = steps::output(&answer)?;
    say(format_args!(
        "✓ the signature fits this server's secret: an iris {}, after {}",
        output.label,
        milliseconds(after)
    ));
    match check(&secret, &received, &received.body.to_ascii_uppercase()) {
        Err(Rejected::Signature) => say("✓ with another body it does not"),
        other => return Err(Fatal::new(format!("an altered webhook was not seen through: {other:?}"))),
    }
    Ok(())
}

/// What a receiver does before it believes anything.
fn check(secret: &Secret, received: &Received, body: &[u8]) -> Result<(), Rejected> {
    let signed = Signed {
        id: received.header(HEADER_ID),
        timestamp: received.header(HEADER_TIMESTAMP),
        signature: received.header(HEADER_SIGNATURE),
    };
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    verify(secret, signed, body, i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX))
}
