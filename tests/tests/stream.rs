//! Tokens on their way from real workers through Redis and the API to those who read along: what is told is the output, whatever
//! is lost and whoever dies on the way.

use std::{
    ffi::OsString,
    fs,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use servers::Process;
use tests::{Cluster, PATIENCE, Plan, answered, program};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    time::{sleep, timeout},
};

const MODEL: &str = "tiny/writer";

/// A tiny decoder with random weights that takes long texts and knows no token that ends one: it writes as long as it shall.
fn put(models: &Path) {
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/inference/tests/goldens/generators/llama-f32.gguf");
    let mut file = fs::read(golden).expect("the golden file");
    let find = |file: &[u8], text: &[u8]| file.windows(text.len()).position(|window| window == text).expect("is there");
    let key = b"llama.context_length";
    // The key, the type of its value, the value.
    let at = find(&file, key) + key.len() + 4;
    file[at..at + 4].copy_from_slice(&32_768_u32.to_le_bytes());
    let at = find(&file, b"tokenizer.ggml.eos_token_id");
    file[at..at + 27].copy_from_slice(b"tokenizer.ggml.xxx_token_id");
    let place = models.join(MODEL);
    fs::create_dir_all(&place).expect("a directory");
    fs::write(place.join("writer.gguf"), file).expect("writes");
}

async fn cluster(workers: usize) -> Cluster {
    let cluster = Cluster::start(Plan { workers, lease: Duration::from_secs(10), ..Plan::default() }).await;
    put(cluster.models.path());
    served(&cluster.address).await;
    cluster
}

/// Waits until the model is there.
async fn served(address: &str) {
    let serving = async {
        while get(address, &format!("/v1/models/{MODEL}")).await.is_none() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, serving).await.expect("the model is served");
}

/// What is at this path, if there is something.
async fn get(address: &str, path: &str) -> Option<Value> {
    let (status, answer) = answered(reqwest::Client::new().get(format!("{address}{path}"))).await;
    (status == 200).then_some(answer)
}

/// Asks for a text of so many tokens; the prediction. (By chance it would hold U+0000 some day, which Postgres does not store.)
async fn ask(address: &str, tokens: usize) -> Value {
    let body = json!({"model": MODEL, "input": {"prompt": "The", "max_tokens": tokens, "temperature": 0}});
    answered(reqwest::Client::new().post(format!("{address}/v1/predictions")).json(&body)).await.1
}

/// A stream that is read: what came so far.
struct Reading {
    response: reqwest::Response,
    unread: Vec<u8>,
}

impl Reading {
    async fn open(prediction: &Value, after: Option<&str>) -> Self {
        let address = prediction["urls"]["stream"].as_str().expect("an address");
        let mut request = reqwest::Client::new().get(address);
        if let Some(id) = after {
            request = request.header("Last-Event-ID", id);
        }
        let begun = Instant::now();
        loop {
            let attempt = request.try_clone().expect("there is no body");
            let response = attempt.send().await.expect("the API answers");
            if response.status() == 200 {
                return Self { response, unread: Vec::new() };
            }
            // Its store is slow.
            assert!(response.status() == 503 && begun.elapsed() < PATIENCE, "{}", response.status());
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The next event: name, id, data.
    async fn next(&mut self) -> [String; 3] {
        loop {
            if let Some(end) = self.unread.windows(2).position(|ends| ends == b"\n\n") {
                let event: Vec<u8> = self.unread.drain(..end + 2).collect();
                let event = String::from_utf8(event).expect("UTF-8");
                let field = |name: &str| {
                    let lines = event.split('\n').filter_map(|line| line.strip_prefix(name));
                    lines.collect::<Vec<_>>().join("\n")
                };
                if event.starts_with(':') {
                    continue;
                }
                return ["event: ", "id: ", "data: "].map(field);
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("something comes");
            self.unread.extend_from_slice(&chunk.expect("the connection lasts").expect("the end is told"));
        }
    }

    /// Everything until the end, which is a success.
    async fn rest(&mut self) -> Vec<[String; 3]> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            assert_ne!(event[0], "error", "{event:?}");
            if event[0] == "done" {
                assert_eq!(event[2], "{}");
                return events;
            }
            events.push(event);
        }
    }
}

fn text(events: &[[String; 3]]) -> String {
    events.iter().map(|[.., data]| data.as_str()).collect()
}

/// The text that was stored, as events can say it.
async fn stored(address: &str, prediction: &Value) -> (String, Value) {
    let id = prediction["id"].as_str().expect("an id");
    let found = get(address, &format!("/v1/predictions/{id}?wait=30")).await.expect("it is there");
    assert_eq!(found["status"], "succeeded", "{found}");
    let text = found["output"]["text"].as_str().expect("a text").replace("\r\n", "\n").replace('\r', "\n");
    (text, found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_is_the_output_from_wherever() {
    let cluster = cluster(2).await;
    from_wherever(&cluster.address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_too() {
    let models = tempfile::tempdir().expect("a directory");
    put(models.path());
    let command =
        [OsString::from(program("augur")), "serve".into(), "--listen=127.0.0.1:0".into(), "--models-dir".into()];
    let augur = Process::new("augur", command.into_iter().chain([models.path().into()]).collect());
    augur.start().await;
    let address = augur.line_that_begins("listening on ", PATIENCE).await;
    served(&address).await;
    from_wherever(&address).await;
}

async fn from_wherever(address: &str) {
    let prediction = ask(address, 12_000).await;
    let (mut one, mut other) = (Reading::open(&prediction, None).await, Reading::open(&prediction, None).await);
    let first = one.next().await;
    // Before it is finished, from the middle.
    let mut again = Reading::open(&prediction, Some(&first[1])).await;
    let (one, other, again) = tokio::join!(one.rest(), other.rest(), again.rest());
    let (output, _) = stored(address, &prediction).await;
    assert_eq!(text(std::slice::from_ref(&first)) + &text(&one), output);
    assert_eq!(text(&other), output);
    assert_eq!(text(std::slice::from_ref(&first)) + &text(&again), output);
    assert!(one.len() > 3, "{} pieces: it was not told as it was written", one.len());
    for number in (0..one.len()).step_by(20) {
        let late = Reading::open(&prediction, Some(&one[number][1])).await.rest().await;
        assert_eq!(text(std::slice::from_ref(&first)) + &text(&one[..=number]) + &text(&late), output, "from {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_redis_and_a_restarted_api_leave_nothing_out() {
    let mut cluster = cluster(1).await;
    let prediction = ask(&cluster.address, 12_000).await;
    let mut reading = Reading::open(&prediction, None).await;
    let mut told = vec![reading.next().await];
    cluster.redis.flush_all().await;
    told.push(reading.next().await);
    // The API is gone, and with it the stream; whoever read it goes on where they were.
    cluster.api.end("KILL").await;
    drop(reading);
    cluster.start_api().await;
    let mut reading = Reading::open(&prediction, told.last().map(|[_, id, _]| id.as_str())).await;
    told.push(reading.next().await);
    cluster.redis.stop().await;
    told.extend(reading.rest().await);
    assert_eq!(text(&told), stored(&cluster.address, &prediction).await.0);
    cluster.redis.start_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_run_goes_on_where_the_reader_is() {
    let mut cluster = cluster(1).await;
    let prediction = ask(&cluster.address, 12_000).await;
    let mut reading = Reading::open(&prediction, None).await;
    let mut told = vec![reading.next().await];
    cluster.kill_worker(0).await;
    cluster.start_worker(0).await;
    told.extend(reading.rest().await);
    let (output, found) = stored(&cluster.address, &prediction).await;
    assert_eq!(text(&told), output);
    assert!(found["attempt"].as_u64() >= Some(2), "it was killed while it ran: {}", found["attempt"]);
    let run = told.last().and_then(|[_, id, _]| id.split_once(':')?.0.parse().ok());
    assert!(run >= Some(2_u32), "{:?}", told.last());
}

/// `augur predict --stream` as it prints into a pipe.
struct Printing {
    augur: Child,
    printed: String,
    /// The beginning of what follows.
    unread: Vec<u8>,
}

impl Printing {
    /// Starts it, and again as long as its server's store is too slow to take what it sends.
    async fn start(address: &str, tokens: usize) -> Self {
        let begun = Instant::now();
        loop {
            let mut printing = Self::start_once(address, tokens);
            let out = printing.augur.stdout.as_mut().expect("a pipe");
            match timeout(PATIENCE, out.read_u8()).await.expect("something comes, or it ends") {
                Ok(byte) => {
                    printing.unread.push(byte);
                    return printing;
                }
                Err(_) => {
                    let (output, _) = printing.end().await;
                    let said = String::from_utf8_lossy(&output.stderr);
                    let is_slow = output.status.code() == Some(2) && said.contains("The database does not answer.");
                    assert!(is_slow && begun.elapsed() < PATIENCE, "{said}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn start_once(address: &str, tokens: usize) -> Self {
        let input = json!({"prompt": "The", "max_tokens": tokens, "temperature": 0}).to_string();
        let mut command = Command::new(program("augur"));
        command.args(["predict", MODEL, &input, "--stream", "--wait=300s", "--server", address]);
        command.env_remove("AUGUR_API_KEY").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let augur = command.kill_on_drop(true).spawn().expect("it starts");
        Self { augur, printed: String::new(), unread: Vec::new() }
    }

    /// Reads on until so much is printed.
    async fn until(&mut self, bytes: usize) {
        let out = self.augur.stdout.as_mut().expect("a pipe");
        let mut unread = std::mem::take(&mut self.unread);
        while self.printed.len() + unread.len() < bytes || str::from_utf8(&unread).is_err() {
            unread.push(timeout(PATIENCE, out.read_u8()).await.expect("something comes").expect("it goes on"));
        }
        self.printed.push_str(str::from_utf8(&unread).expect("UTF-8"));
    }

    /// How it ended, and all that it printed.
    async fn end(self) -> (Output, String) {
        let output = timeout(PATIENCE, self.augur.wait_with_output()).await.expect("it ends").expect("it was started");
        let rest = [self.unread.as_slice(), &output.stdout].concat();
        let printed = self.printed + str::from_utf8(&rest).expect("UTF-8");
        (output, printed)
    }
}

/// The prediction that was made last: one that a slow store did not answer for may be there beside it.
async fn last(address: &str) -> Value {
    let list = get(address, "/v1/predictions").await.expect("a list");
    assert!(list["results"].as_array().is_some_and(|results| !results.is_empty()), "{list}");
    list["results"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_all_of_a_text_once_through_restarts() {
    let mut cluster = cluster(1).await;
    let mut printing = Printing::start(&cluster.address, 12_000).await;
    printing.until(1).await;
    cluster.api.end("KILL").await;
    cluster.start_api().await;
    let so_far = printing.printed.len();
    printing.until(so_far + 1).await;
    // An API that stops tells its readers nothing but that.
    cluster.api.end("TERM").await;
    cluster.start_api().await;
    cluster.kill_worker(0).await;
    cluster.start_worker(0).await;
    let (output, printed) = printing.end().await;
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
    assert_eq!(printed, stored(&cluster.address, &last(&cluster.address).await).await.0 + "\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_tells_of_a_cancellation_and_leaves_what_is_printed() {
    let cluster = cluster(1).await;
    let mut printing = Printing::start(&cluster.address, 30_000).await;
    printing.until(10).await;
    let prediction = last(&cluster.address).await;
    let cancel = prediction["urls"]["cancel"].as_str().expect("an address");
    let (status, canceled) = answered(reqwest::Client::new().post(cancel)).await;
    assert_eq!(status, 200, "{canceled}");
    let (output, printed) = printing.end().await;
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: the prediction ") && said.contains("is canceled"), "{said}");
    assert!(printed.len() > 10 && printed.ends_with('\n'), "{printed:?}");
}
