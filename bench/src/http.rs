//! As little of HTTP/1.1 as a driver needs: requests come ready-made, of answers it reads the status and the body. A client that
//! does more would cost more than the server it measures.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A kept-alive connection.
pub(crate) struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    /// The latest answer.
    answer: Vec<u8>,
    /// The server will take no further request on this stream.
    closing: bool,
}

/// What a server said.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

/// What the head of an answer says.
struct Head {
    status: u16,
    /// Where the body begins and ends.
    body: (usize, usize),
    closing: bool,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self { address, stream: connect(address).await, answer: Vec::with_capacity(4096), closing: false }
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Panics
    /// When the server breaks off.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Answer<'_> {
        if self.closing {
            self.stream = connect(self.address).await;
        }
        self.stream.write_all(request).await.expect("the server takes requests");
        self.answer.clear();
        let head = loop {
            self.read().await;
            if let Some(head) = head(&self.answer) {
                break head;
            }
        };
        while self.answer.len() < head.body.1 {
            self.read().await;
        }
        self.closing = head.closing;
        Answer { status: head.status, body: &self.answer[head.body.0..head.body.1] }
    }

    async fn read(&mut self) {
        let read = self.stream.read_buf(&mut self.answer).await.expect("the server answers");
        assert!(read > 0, "{} closed a connection with a request under way", self.address);
    }
}

impl Answer<'_> {
    /// The first value of a member of this name, when it is a text without escapes.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let body = std::str::from_utf8(self.body).ok()?;
        let mut rest = body;
        loop {
            let (_, after) = rest.split_once(name)?;
            rest = after;
            let Some(value) = after.strip_prefix("\":") else { continue };
            return value.trim_start().strip_prefix('"')?.split('"').next();
        }
    }
}

/// A request without a body, or with one in JSON.
pub(crate) fn request(method: &str, path: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = match body.len() {
        0 => String::new(),
        length => format!("content-type: application/json\r\ncontent-length: {length}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{fields}{length}\r\n{body}").into_bytes()
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("the server listens");
    stream.set_nodelay(true).expect("small packets can be sent at once");
    stream
}

/// None when it has not all come.
fn head(answer: &[u8]) -> Option<Head> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&answer[..end]).expect("heads are ASCII");
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok()).expect("an answer begins with its status");
    let (mut length, mut closing) = (0, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().expect("a length is a number");
        } else if name.eq_ignore_ascii_case("connection") {
            closing = value.trim().eq_ignore_ascii_case("close");
        }
        assert!(!name.eq_ignore_ascii_case("transfer-encoding"), "the driver reads bodies of a stated length only");
    }
    Some(Head { status, body: (end + 4, end + 4 + length), closing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let whole = b"HTTP/1.1 202 Accepted\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{\"id\": \"abc\"}";
        let head = head(whole).expect("the head is whole");
        assert_eq!((head.status, head.body, head.closing), (202, (64, 77), true));
        assert!(super::head(&whole[..60]).is_none());
        let answer = Answer { status: 202, body: br#"{"my_id":7,"id": "abc"}"# };
        assert_eq!(answer.text("\"id"), Some("abc"));
    }
}
