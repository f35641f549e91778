//! Server-sent events, read (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::mem;

/// What is read of a stream of events that comes in chunks.
#[derive(Default)]
pub(crate) struct Events {
    /// The line that has begun.
    line: Vec<u8>,
    /// The event that has begun.
    event: Event,
}

/// One event.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Event {
    /// What kind it is.
    pub(crate) name: String,
    /// What to ask for the events after it with.
    pub(crate) id: Option<String>,
    /// What it says, if anything.
    pub(crate) data: Option<String>,
}

impl Events {
    /// The events that end in this chunk. Lines end in LF or CR LF.
    pub(crate) fn read(&mut self, mut chunk: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&chunk[..end]);
            chunk = &chunk[end + 1..];
            let line = mem::take(&mut self.line);
            events.extend(self.read_line(&String::from_utf8_lossy(&line)));
        }
        self.line.extend_from_slice(chunk);
        events
    }

    /// The event that ends with this line. One without data is none.
    fn read_line(&mut self, line: &str) -> Option<Event> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            return Some(mem::take(&mut self.event)).filter(|event| event.data.is_some());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => match &mut self.event.data {
                Some(data) => data.extend(["\n", value]),
                data => *data = Some(value.to_owned()),
            },
            // A comment, or nothing that is known.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let stream = ": hello\n\nevent: output\nid: 1:2:3\ndata:  \u{f6}\ndata\ndata:b:c\n\n: keep-alive\n\n\
                      event: nothing\n\nretry: 5\r\nevent: done\r\ndata: {}\r\n\r\nevent: output\ndata: unfinished\n";
        let event = |name: &str, id: Option<&str>, data: &str| Event {
            name: name.to_owned(),
            id: id.map(str::to_owned),
            data: Some(data.to_owned()),
        };
        let whole = [event("output", Some("1:2:3"), " \u{f6}\n\nb:c"), event("done", None, "{}")];
        for first in 0..=stream.len() {
            for second in [first, (first + 1).min(stream.len()), stream.len()] {
                let mut events = Events::default();
                let (mut read, bytes) = (Vec::new(), stream.as_bytes());
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    read.extend(events.read(part));
                }
                assert_eq!(read, whole, "cut at {first} and {second}");
            }
        }
    }
}
