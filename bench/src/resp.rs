//! As little of Redis' protocol as a stream of tickets needs: commands go out many at once, answers are read where they lie.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const STREAM: &str = "bare";
const GROUP: &str = "workers";
/// Milliseconds that a read waits for the first ticket.
const BLOCK: &str = "100";

/// A ticket that was read: its place in the stream, and the id it carries.
pub(crate) struct Ticket {
    pub(crate) place: String,
    pub(crate) id: String,
}

/// One connection to the stream.
pub(crate) struct Stream {
    connection: TcpStream,
    /// Commands that have not been sent yet, and how many they are.
    commands: Vec<u8>,
    count: usize,
    answer: Vec<u8>,
}

/// One answer.
enum Value<'a> {
    Text(&'a [u8]),
    Array(Vec<Value<'a>>),
    /// A number, or the absence of anything.
    Other,
}

impl Stream {
    pub(crate) async fn open(redis_url: &str) -> Self {
        let connection = TcpStream::connect(redis_url.trim_start_matches("redis://")).await.expect("Redis listens");
        connection.set_nodelay(true).expect("small packets can be sent at once");
        Self { connection, commands: Vec::new(), count: 0, answer: Vec::new() }
    }

    /// Makes the stream and its group anew.
    pub(crate) async fn make(&mut self) {
        self.command(&["DEL", STREAM]);
        self.command(&["XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM"]);
        self.send().await;
    }

    pub(crate) async fn add(&mut self, ids: impl Iterator<Item = String>) {
        ids.for_each(|id| self.command(&["XADD", STREAM, "*", "id", &id]));
        self.send().await;
    }

    /// Up to so many tickets; none when none comes for a while.
    pub(crate) async fn read(&mut self, most: usize) -> Vec<Ticket> {
        let count = most.to_string();
        self.command(&["XREADGROUP", "GROUP", GROUP, "one", "COUNT", &count, "BLOCK", BLOCK, "STREAMS", STREAM, ">"]);
        self.send().await;
        let (answer, _) = parse(&self.answer).expect("it is whole");
        let Value::Array(streams) = answer else { return Vec::new() };
        let Some(Value::Array(stream)) = streams.into_iter().next() else { panic!("one stream was asked for") };
        let Some(Value::Array(entries)) = stream.into_iter().nth(1) else { panic!("a stream has entries") };
        entries.into_iter().map(ticket).collect()
    }

    /// Acknowledges and deletes, in one go.
    pub(crate) async fn settle(&mut self, places: &[String]) {
        let places = || places.iter().map(String::as_str);
        self.command(&["XACK", STREAM, GROUP].into_iter().chain(places()).collect::<Vec<_>>());
        self.command(&["XDEL", STREAM].into_iter().chain(places()).collect::<Vec<_>>());
        self.send().await;
    }

    fn command(&mut self, words: &[&str]) {
        self.commands.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.commands.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
        self.count += 1;
    }

    /// Sends what is to be sent and waits until all of it has been answered; the last answer is kept.
    async fn send(&mut self) {
        self.connection.write_all(&self.commands).await.expect("Redis takes commands");
        self.commands.clear();
        self.answer.clear();
        while self.count > 0 {
            while self.count > 0
                && let Some((_, length)) = parse(&self.answer)
            {
                self.count -= 1;
                if self.count > 0 {
                    self.answer.drain(..length);
                }
            }
            if self.count > 0 {
                let read = self.connection.read_buf(&mut self.answer).await.expect("Redis answers");
                assert!(read > 0, "Redis closed the connection");
            }
        }
    }
}

fn ticket(entry: Value<'_>) -> Ticket {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("tickets are ASCII");
    let Value::Array(entry) = entry else { panic!("an entry is an array") };
    let [Value::Text(place), Value::Array(fields)] = entry.as_slice() else {
        panic!("an entry is its place and fields")
    };
    let Some(Value::Text(id)) = fields.get(1) else { panic!("a ticket carries an id") };
    Ticket { place: text(place), id: text(id) }
}

/// The first answer among these bytes and its length; none when it has not all come.
fn parse(bytes: &[u8]) -> Option<(Value<'_>, usize)> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")?;
    let (kind, line, next) = (bytes[0], &bytes[1..end], end + 2);
    let number = || std::str::from_utf8(line).ok()?.parse::<i64>().ok();
    match kind {
        b'+' => Some((Value::Text(line), next)),
        b':' => Some((Value::Other, next)),
        b'$' | b'*' => match (kind, usize::try_from(number()?)) {
            (_, Err(_)) => Some((Value::Other, next)),
            (b'$', Ok(length)) => {
                let text = bytes.get(next..next + length + 2)?;
                Some((Value::Text(&text[..length]), next + length + 2))
            }
            (_, Ok(length)) => {
                let (mut values, mut next) = (Vec::with_capacity(length), next);
                for _ in 0..length {
                    let (value, length) = parse(&bytes[next..])?;
                    values.push(value);
                    next += length;
                }
                Some((Value::Array(values), next))
            }
        },
        _ => panic!("Redis: {}", String::from_utf8_lossy(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        let whole = b"*1\r\n*2\r\n$4\r\nbare\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$2\r\nid\r\n$1\r\n7\r\n+OK\r\n";
        let (answer, length) = parse(whole).expect("it is whole");
        assert_eq!(length, whole.len() - "+OK\r\n".len());
        assert!((0..length).all(|end| parse(&whole[..end]).is_none()), "no part is taken for the whole");
        let Value::Array(streams) = answer else { panic!("an array") };
        assert_eq!(streams.len(), 1);
        assert!(matches!(parse(b"*-1\r\n"), Some((Value::Other, 5))));
    }
}
