//! `augur predict` against a running server.

use std::fs;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    once::{Ran, augur, command, ended, once_stored},
    served::{Served, serve},
};

async fn predict(served: &Served, arguments: &[&str]) -> Ran {
    let mut all = vec!["predict", "--server", &served.address];
    all.extend(arguments);
    once_stored(|| command(&all)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_prints_the_output_however_the_input_comes() {
    let served = serve(&[]).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("input.json");
    let input = r#"{"value": {"b": 1, "a": [2.50, "ä"]}}"#;
    fs::write(&path, input).expect("a temporary file");
    let file = format!("@{}", path.display());

    let given = predict(&served, &["augur/echo", input]).await;
    let from_file = predict(&served, &["echo", &file]).await;
    let from_stdin = ended(command(&["predict", "--server", &served.address, "echo"]), input).await;
    for ran in [given, from_file, from_stdin] {
        assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        let output: Value = serde_json::from_str(&ran.out).expect("it prints JSON");
        assert_eq!(output, json!({"b": 1, "a": [2.50, "ä"]}));
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_status_says_what_happened() {
    let served = serve(&[]).await;
    let failed = predict(&served, &["echo", r#"{"value": 1, "fail": "permanent"}"#]).await;
    assert_eq!(failed.status, Some(1), "{failed:?}");
    assert!(failed.err.contains("is failed: "), "{}", failed.err);

    let unfinished = predict(&served, &["echo", r#"{"value": 1, "sleep_ms": 30000}"#, "--wait=1s"]).await;
    assert_eq!(unfinished.status, Some(1), "{unfinished:?}");
    assert!(unfinished.err.contains("not finished after 1s") && unfinished.err.contains("curl http://"));

    let refused = predict(&served, &["echo", r#"{"worth": 1}"#]).await;
    assert_eq!(refused.status, Some(2), "{refused:?}");
    assert!(refused.err.contains("(422)") && refused.err.contains("/input"), "{}", refused.err);

    let unknown = predict(&served, &["nobody/nothing", "{}"]).await;
    assert_eq!(unknown.status, Some(2), "{unknown:?}");
    assert!(unknown.err.contains("(404)"), "{}", unknown.err);
    // What still runs here is given back at once.
    served.process.end("KILL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_waited_for_while_the_store_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let server = format!("http://{}", listener.local_addr().expect("it has an address"));
    let accepted = json!({"id": "0198a7c2-0000-7000-8000-000000000000", "status": "starting"});
    let away = json!({"title": "Service unavailable", "detail": "The database does not answer.", "status": 503});
    let mut finished = accepted.clone();
    (finished["status"], finished["output"]) = (json!("succeeded"), json!(7));
    let answers = [("202 Accepted", accepted), ("503 Service Unavailable", away), ("200 OK", finished)];
    let answering = async {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.expect("it is asked");
            let mut asked = Vec::new();
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                stream.read_buf(&mut asked).await.expect("a request");
            }
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\nretry-after: 0\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await.expect("it listens");
            // What it has sent and nobody read would reset the connection before it has read the answer.
            stream.shutdown().await.expect("it listens");
            stream.read_to_end(&mut asked).await.expect("it hangs up");
        }
    };
    let arguments = ["predict", "--server", &server, "echo", "7"];
    let (ran, ()) = tokio::join!(augur(&arguments), answering);
    assert_eq!((ran.status, ran.out.as_str(), ran.err.as_str()), (Some(0), "7\n", ""), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_text_is_printed_alike_with_and_without_stream() {
    let served = serve(&[]).await;
    for input in
        [r#"{"value": {"b": 1, "a": [2.50, "\u00e4\r\n\u001b"]}}"#, r#"{"value": "a text"}"#, r#"{"value": null}"#]
    {
        let (without, with) =
            (predict(&served, &["echo", input]).await, predict(&served, &["echo", input, "--stream"]).await);
        assert_eq!((with.status, &with.out, with.err.as_str()), (Some(0), &without.out, ""), "{with:?}");
    }
    for (input, status, wait) in [
        (r#"{"value": 1, "fail": "permanent"}"#, 1, "60s"),
        (r#"{"value": 1, "sleep_ms": 30000}"#, 1, "1s"),
        (r#"{"worth": 1}"#, 2, "60s"),
    ] {
        let without = predict(&served, &["echo", input, "--wait", wait]).await;
        let with = predict(&served, &["echo", input, "--wait", wait, "--stream"]).await;
        assert_eq!((with.status, with.out.as_str()), (Some(status), ""), "{with:?}");
        // Their ids differ.
        let masked = |ran: &Ran| ran.err.replace(|character: char| character.is_ascii_hexdigit(), "0");
        assert_eq!(masked(&with), masked(&without));
    }
    served.process.end("KILL").await;
}

#[tokio::test]
async fn a_wrong_call_is_told_apart_from_a_failure() {
    let nobody = format!("http://127.0.0.1:{}", servers::free_port());
    for (arguments, said) in [
        (vec!["predict", "echo", "{}", "--server", &nobody], "is it running?"),
        (vec!["predict", "echo", "{}", "--server", "https://localhost"], "must begin with http://"),
        (vec!["predict", "echo", "{", "--server", &nobody], "the input is not JSON"),
        (vec!["predict", "echo", "@/nonexistent.json", "--server", &nobody], "/nonexistent.json cannot be read"),
        (vec!["predict", "../echo", "{}"], "invalid value '../echo'"),
        (vec!["predict"], "<MODEL>"),
    ] {
        let ran = augur(&arguments).await;
        assert_eq!((ran.status, ran.out.as_str()), (Some(2), ""), "{ran:?}");
        assert!(ran.err.contains(said), "{}", ran.err);
    }
}
