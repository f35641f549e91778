//! What our things are called in Redis: per namespace, and per stream within it.

use prediction::StreamKey;
use uuid::Uuid;

/// The consumer group that every worker of a stream belongs to.
pub(crate) const GROUP: &str = "workers";

/// The name that holds returned tickets, silent for so long that the next consumer with room takes them, before new
/// ones: returned to the end of the stream they would wait for all that came after them.
pub(crate) const RETURNED: &str = "returned";

/// How long [`RETURNED`] is silent, in milliseconds: longer than any lease.
pub(crate) const RETURNED_SILENCE: u64 = 86_400_000;

/// The field that holds the ids of an entry's predictions, 16 bytes each.
pub(crate) const ID: &[u8] = b"id";

/// The names of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    namespace: String,
}

impl Names {
    pub(crate) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    pub(crate) fn stream(&self, stream: &StreamKey) -> StreamNames {
        StreamNames {
            tickets: format!("{}:tickets:{stream}", self.namespace),
            generation: format!("{}:generation:{stream}", self.namespace),
            bundle: format!("{}:bundle:{stream}", self.namespace),
        }
    }

    pub(crate) fn probe(&self) -> String {
        format!("{}:probe", self.namespace)
    }

    pub(crate) fn notices(&self) -> String {
        format!("{}:notices", self.namespace)
    }

    /// The channel of the process that reads along under this name.
    pub(crate) fn reader(&self, name: Uuid) -> String {
        format!("{}:reader:{name}", self.namespace)
    }
}

/// The keys of one stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamNames {
    pub(crate) tickets: String,
    pub(crate) generation: String,
    /// How many tickets its consumers want in one entry.
    pub(crate) bundle: String,
}

impl StreamNames {
    /// Those of the tickets, in the scripts' order.
    pub(crate) fn keys(&self) -> [&str; 2] {
        [&self.tickets, &self.generation]
    }
}
