//! A Redis server of a test's own.

use std::{
    ffi::OsString,
    io,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{
    port::{free_port, was_taken},
    process::Process,
    programs,
};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A Redis server of a test's own, without persistence. It is gone when this value is dropped or the process ends.
pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts a server on a free port.
    ///
    /// # Panics
    /// When Redis is not installed or does not start; says what to install or what it logged.
    pub async fn start() -> Self {
        loop {
            let server = Self::on(free_port());
            if server.has_started().await {
                return server;
            }
        }
    }

    fn on(port: u16) -> Self {
        let mut command: Vec<OsString> = vec![programs::redis().into()];
        let port_text = port.to_string();
        for (name, value) in
            [("--port", port_text.as_str()), ("--bind", "127.0.0.1"), ("--save", ""), ("--appendonly", "no")]
        {
            command.extend([name.into(), value.into()]);
        }
        Self { process: Process::new("augur-redis", command), port }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it at once; its contents are lost.
    pub async fn stop(&mut self) {
        self.process.end("KILL").await;
    }

    /// Starts it again, empty, on the same port.
    ///
    /// # Panics
    /// When it does not answer within a minute; shows what it logged.
    pub async fn start_again(&mut self) {
        assert!(self.has_started().await, "its port is taken");
    }

    /// SIGSTOP: it hangs, connections stay open.
    ///
    /// # Panics
    /// When it is stopped.
    pub fn pause(&self) {
        self.process.signal("STOP");
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// When it is stopped.
    pub fn resume(&self) {
        self.process.signal("CONT");
    }

    /// FLUSHALL.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn flush_all(&self) {
        let answer = self.ask("FLUSHALL").await.expect("Redis answers");
        assert_eq!(answer, "+OK");
    }

    /// Starts it and waits until it answers; whether it does, or its port was taken.
    async fn has_started(&self) -> bool {
        self.process.start().await;
        let begun = Instant::now();
        while !self.answers().await {
            let alive = self.process.is_alive().await;
            if !alive && was_taken(&self.process.log()) {
                return false;
            }
            assert!(
                alive && begun.elapsed() < START_TIMEOUT,
                "Redis does not answer; its log:\n{}",
                self.process.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Whoever has its port may be silent.
    async fn answers(&self) -> bool {
        let answer = tokio::time::timeout(Duration::from_secs(5), self.ask("PING")).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer == "+PONG"))
    }

    /// One inline command, answered by a simple string: all that tests say to the server itself.
    async fn ask(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok(answer.trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_noticed() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let server = Redis::on(taken.local_addr().expect("an address").port());
        assert!(!server.has_started().await);
    }
}
