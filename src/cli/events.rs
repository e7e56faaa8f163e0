//! Reads server-sent events (the WHATWG format) from the chunks of an answer.
//! Knows nothing of what the events mean.

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What `Last-Event-ID` has to name to go on after this event.
    pub id: Option<String>,
    pub data: String,
}

/// An event longer than this is cut there: a server that never ends one must not fill our memory.
const EVENT_LIMIT_BYTES: usize = 1024 * 1024;

#[derive(Debug, Default)]
pub struct EventReader {
    line: Vec<u8>,
    data: Vec<String>,
    data_bytes: usize,
    id: Option<String>,
}

impl EventReader {
    /// Takes the next bytes and hands each event that they complete to `each`.
    pub fn push(&mut self, chunk: &[u8], mut each: impl FnMut(Event)) {
        for byte in chunk {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                if let Some(event) = self.end_line(&String::from_utf8_lossy(&line)) {
                    each(event);
                }
            } else if self.line.len() < EVENT_LIMIT_BYTES {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self, line: &str) -> Option<Event> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            self.data_bytes = 0;
            let id = self.id.take();
            let data = std::mem::take(&mut self.data);
            return (!data.is_empty()).then(|| Event { id, data: data.join("\n") });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" if self.data_bytes < EVENT_LIMIT_BYTES => {
                self.data_bytes += value.len();
                self.data.push(value.to_owned());
            }
            "id" => self.id = Some(value.to_owned()),
            // Comments keep a stream awake; event names and retry times do not matter here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_across_any_cut() {
        let stream = b": hello\n\nid: 1\ndata: one\n\nevent: log\r\nid:2\r\ndata: two\r\ndata:\r\ndata:  three\r\n\r\ndata: cut";
        let expected = [
            Event { id: Some("1".into()), data: "one".into() },
            Event { id: Some("2".into()), data: "two\n\n three".into() },
        ];
        for size in 1..stream.len() {
            let (mut reader, mut events) = (EventReader::default(), Vec::new());
            for chunk in stream.chunks(size) {
                reader.push(chunk, |event| events.push(event));
            }
            assert_eq!(events, expected, "chunks of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_cut() {
        let mut reader = EventReader::default();
        reader.push(&vec![b'x'; 3 * EVENT_LIMIT_BYTES], |_| {});
        assert_eq!(reader.line.len(), EVENT_LIMIT_BYTES);
    }
}
