//! Low load: predictions at a steady rate, each timed from its submission until its caller knows the result.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    drive::value,
    http::{Connection, request},
    numbers::{Numbers, percentile},
    receiver::Receiver,
    subject::Dialect,
};

/// The pause between two looks of a caller that polls.
const POLL: Duration = Duration::from_millis(2);
/// Longer than any webhook here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a caller gets to know the result.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    LongPoll,
    Poll,
    Prefer,
    Webhook,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::LongPoll, Self::Poll, Self::Prefer, Self::Webhook];

    fn name(self) -> &'static str {
        match self {
            Self::LongPoll => "long-poll",
            Self::Poll => "2 ms polling",
            Self::Prefer => "Prefer: wait",
            Self::Webhook => "webhook",
        }
    }
}

/// Where callers ask, and how.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) dialect: &'static Dialect,
    pub(crate) address: SocketAddr,
    /// Taken in turn, so that each meets the same moments.
    pub(crate) ways: &'static [Way],
    /// Submissions per second, in all, and for how long.
    pub(crate) per_second: u32,
    pub(crate) lasts: Duration,
}

/// Connections that nobody uses at the moment.
type Idle = Arc<Mutex<Vec<Connection>>>;

impl Load {
    /// Milliseconds from submission to known result, by way. `receiver` gets the webhooks.
    pub(crate) async fn measure(&self, receiver: Option<&Receiver>, prefix: &str) -> Numbers {
        let mut ticks = interval(Duration::from_secs(1) / self.per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let idle = Idle::default();
        let webhook = receiver.map(|receiver| receiver.url(0)).unwrap_or_default();
        let mut callers = JoinSet::new();
        let begun = Instant::now();
        while begun.elapsed() < self.lasts {
            ticks.tick().await;
            let way = self.ways[callers.len() % self.ways.len()];
            let (load, idle, webhook, number) = (self.clone(), Arc::clone(&idle), webhook.clone(), callers.len());
            callers.spawn(async move { (way, load.predict(way, number, &webhook, &idle).await) });
        }
        let mut milliseconds: BTreeMap<Way, Vec<f64>> = BTreeMap::new();
        let mut webhooks = BTreeMap::new();
        for (way, (id, begun, seconds)) in callers.join_all().await {
            match way {
                Way::Webhook => drop(webhooks.insert(format!("{id}_completed"), begun)),
                _ => milliseconds.entry(way).or_default().push(seconds * 1e3),
            }
        }
        if let Some(receiver) = receiver {
            milliseconds.insert(Way::Webhook, arrivals(receiver, &webhooks).await);
        }
        let numbers = milliseconds.iter().flat_map(|(way, values)| {
            let name = |share: &str| format!("{prefix}, {}, {share}: ms", way.name());
            [(name("p50"), percentile(values, 0.5)), (name("p99"), percentile(values, 0.99))]
        });
        numbers.collect()
    }

    /// One caller: the id, when it was submitted in seconds since 1970, and after how many seconds the result was known. Who is told
    /// by webhook makes sure of the result later.
    async fn predict(&self, way: Way, number: usize, webhook: &str, idle: &Idle) -> (String, f64, f64) {
        let lent = idle.lock().await.pop();
        let mut connection = match lent {
            Some(connection) => connection,
            None => Connection::open(self.address).await,
        };
        let fields = if way == Way::Prefer { "prefer: wait=30\r\n" } else { "" };
        let (begin, end) = self.dialect.around;
        let value = value(number);
        let mut body = format!("{begin}\"{value}\"{end}");
        if way == Way::Webhook {
            body.pop();
            body += &format!(r#","webhook":"{webhook}","webhook_events_filter":["completed"]}}"#);
        }
        let post = request("POST", self.dialect.path, fields, &body);
        let (since_1970, begun) = (seconds_since_1970(), Instant::now());
        let answer = connection.exchange(&post).await;
        assert!([201, 202].contains(&answer.status), "{}", String::from_utf8_lossy(answer.body));
        let id = answer.text("\"id").expect("an accepted prediction has an id").to_owned();
        let mut known = answer.text("\"status") == Some("succeeded") && answer.text("\"output") == Some(&value);
        let mut seconds = begun.elapsed().as_secs_f64();
        let query = if way == Way::LongPoll { "?wait=30" } else { "" };
        let get = request("GET", &format!("{}{id}{query}", self.dialect.read), "", "");
        while !known {
            if matches!(way, Way::Poll | Way::Webhook) {
                sleep(POLL).await;
            }
            let answer = connection.exchange(&get).await;
            seconds = begun.elapsed().as_secs_f64();
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(answer.body));
            if answer.text("\"status") == Some("succeeded") {
                assert_eq!(answer.text("\"output"), Some(value.as_str()), "the output is the input");
                known = true;
            }
        }
        idle.lock().await.push(connection);
        (id, since_1970, seconds)
    }
}

/// Milliseconds from each submission until its webhook had been read.
async fn arrivals(receiver: &Receiver, webhooks: &BTreeMap<String, f64>) -> Vec<f64> {
    let begun = Instant::now();
    while receiver.count() < webhooks.len() {
        assert!(begun.elapsed() < PATIENCE, "webhooks are missing");
        sleep(POLL).await;
    }
    receiver.take().iter().map(|(id, at)| (at - webhooks[id]) * 1e3).collect()
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}
