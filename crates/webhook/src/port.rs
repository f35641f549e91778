//! Which ports webhooks may go to: those of the web, and high ones at which no well-known service listens that would take
//! an HTTP request for its own commands.

/// From here on ports are for anybody's services.
const FIRST_FREE: u16 = 1024;

/// High ports of well-known services that are not web servers. The first rows are those that browsers refuse (WHATWG Fetch,
/// "bad port"); the others are of databases, brokers and control planes.
const SERVICES: &[u16] = &[
    1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, // telephony, NFS, Sieve, X11, scanners
    6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080, // IRC, Amanda
    1433, 1434, 1521, 3306, 5432, 5433, 6432,
    26257, // SQL Server, Oracle, MySQL, Postgres and its poolers, CockroachDB
    6379, 6380, 16379, 26379, 11211, // Redis and its cluster bus and sentinel, memcached
    7000, 7001, 9042, 9160, 27017, 27018, 27019, 28015, 50000, // Cassandra, MongoDB, RethinkDB, Db2
    5984, 7474, 7687, 8086, 9200, 9300, // CouchDB, Neo4j, InfluxDB, Elasticsearch
    1883, 2181, 4222, 5671, 5672, 6650, 9092, 9093, 15672, 61613,
    61616, // MQTT, ZooKeeper, NATS, AMQP, Pulsar, Kafka, STOMP
    2375, 2376, 2377, 2379, 2380, 4001, 6443, 10250, 10255, 10256, // Docker, etcd, Kubernetes
    4646, 4647, 8200, 8300, 8301, 8500, 8600, // Nomad, Vault, Consul
    3389, 5900, 5901, 5985, 5986, // remote desktops, WinRM
];

/// Whether webhooks may go there: 80, 443, or 1024 and above but for [`SERVICES`].
pub(crate) fn is_allowed(port: u16) -> bool {
    matches!(port, 80 | 443) || (port >= FIRST_FREE && !SERVICES.contains(&port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_webs_ports_and_free_ones() {
        for port in [80, 443, 1024, 3000, 5000, 8000, 8080, 8443, 9000, 32768, 49152, 65535] {
            assert!(is_allowed(port), "{port}");
        }
        for port in [0, 1, 21, 22, 23, 25, 53, 110, 143, 444, 587, 1023, 3306, 5432, 6379, 11211, 27017] {
            assert!(!is_allowed(port), "{port}");
        }
    }
}
