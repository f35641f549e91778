//! Low load: predictions at a steady rate, each timed from its submission until its caller knows the result.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    drive::{PREFER, is_result, seconds_since_1970, value},
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

/// Connections that nobody uses at the moment, and since when, the one used last at the end.
type Idle = Arc<Mutex<Vec<(Instant, Connection)>>>;
/// For how long one may lie idle: servers close such as have lain for longer, perhaps while a request is on its way.
const FRESH: Duration = Duration::from_secs(5);

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
        for (way, told) in callers.join_all().await {
            match way {
                Way::Webhook => drop(webhooks.insert(format!("{}_completed", told.id), told)),
                _ => milliseconds.entry(way).or_default().push(told.seconds * 1e3),
            }
        }
        if let Some(receiver) = receiver {
            milliseconds.insert(Way::Webhook, arrivals(receiver, &webhooks).await);
            self.verify(webhooks.values()).await;
        }
        let numbers = milliseconds.iter().flat_map(|(way, values)| {
            let name = |share: &str| format!("{prefix}, {}, {share}: ms", way.name());
            [(name("p50"), percentile(values, 0.5)), (name("p99"), percentile(values, 0.99))]
        });
        numbers.collect()
    }

    /// One caller, who knows the result afterwards; or, who is told by webhook, will.
    async fn predict(&self, way: Way, number: usize, webhook: &str, idle: &Idle) -> Told {
        let lent = idle.lock().await.pop();
        let mut connection = match lent {
            Some((since, connection)) if since.elapsed() < FRESH => connection,
            _ => Connection::open(self.address).await,
        };
        let fields = if way == Way::Prefer { PREFER } else { "" };
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
        let mut seconds = begun.elapsed().as_secs_f64();
        assert!([201, 202].contains(&answer.status), "{}", String::from_utf8_lossy(answer.body));
        let id = answer.text("\"id").expect("an accepted prediction has an id").to_owned();
        if way == Way::Prefer {
            assert!(is_result(&answer, &value), "who waits is answered with the result");
        }
        if matches!(way, Way::LongPoll | Way::Poll) {
            let query = if way == Way::LongPoll { "?wait=30" } else { "" };
            let get = request("GET", &format!("{}{id}{query}", self.dialect.read), "", "");
            loop {
                if way == Way::Poll {
                    sleep(POLL).await;
                }
                let answer = connection.exchange(&get).await;
                seconds = begun.elapsed().as_secs_f64();
                if is_result(&answer, &value) {
                    break;
                }
            }
        }
        idle.lock().await.push((Instant::now(), connection));
        Told { id, value, since_1970, seconds }
    }

    /// Whether those who were told by webhook can read what they were told of.
    async fn verify(&self, all: impl Iterator<Item = &Told>) {
        let mut connection = Connection::open(self.address).await;
        for told in all {
            let get = request("GET", &format!("{}{}", self.dialect.read, told.id), "", "");
            assert!(
                is_result(&connection.exchange(&get).await, &told.value),
                "a webhook comes when the result is there"
            );
        }
    }
}

/// What became of one prediction.
struct Told {
    id: String,
    /// What it was to give.
    value: String,
    /// When it was submitted, in seconds since 1970.
    since_1970: f64,
    /// After how many seconds its caller knew the result, unless a webhook tells it.
    seconds: f64,
}

/// Milliseconds from each submission until its webhook had been read.
async fn arrivals(receiver: &Receiver, webhooks: &BTreeMap<String, Told>) -> Vec<f64> {
    let begun = Instant::now();
    while receiver.count() < webhooks.len() {
        assert!(begun.elapsed() < PATIENCE, "webhooks are missing");
        sleep(POLL).await;
    }
    receiver.take().iter().map(|(id, at)| (at - webhooks[id].since_1970) * 1e3).collect()
}
