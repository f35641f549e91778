//! S23: receivers that drip, flood, lie and hang up. Each attempt ends, keeps at most 16 KiB and holds little else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::io::AsyncWriteExt as _;
use webhook::{BodyEnd, Failed, Health, Step, Verdict};

use crate::{
    receiver::Receiver,
    sender::{BRIEF, PATIENT, send_to_loopback},
};

const KEPT: usize = 16 * 1024;

/// Writes `start`, then `again` for ever, with a pause between.
async fn flood(start: &'static str, again: Vec<u8>, pause: Duration) -> (Receiver, Arc<AtomicU64>) {
    let written = Arc::new(AtomicU64::new(0));
    let (count, again) = (Arc::clone(&written), Arc::new(again));
    let receiver = Receiver::start(move |mut stream| {
        let (count, again) = (Arc::clone(&count), Arc::clone(&again));
        async move {
            let mut open = stream.write_all(start.as_bytes()).await.is_ok();
            while open {
                open = stream.write_all(&again).await.is_ok();
                count.fetch_add(again.len() as u64, Ordering::SeqCst);
                if pause > Duration::ZERO {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    })
    .await;
    (receiver, written)
}

const DRIP: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_body_that_drips_ends_with_the_attempt_and_its_status_counts() {
    let (receiver, _) = flood("HTTP/1.1 200 OK\r\n\r\n", b"x".to_vec(), DRIP).await;
    // Long enough for the status to come, on a machine that is busy.
    let attempt = send_to_loopback(&receiver.url(), BRIEF * 5).await;
    assert_eq!(attempt.verdict(0), Verdict::Delivered);
    let answer = attempt.outcome.expect("an answer");
    assert_eq!(answer.body_end, BodyEnd::TimedOut);
    assert!(answer.body.len() < 100 && answer.body.iter().all(|byte| *byte == b'x'), "{answer:?}");
}

#[tokio::test]
async fn headers_that_drip_are_no_answer() {
    for start in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nx: "] {
        let (receiver, _) = flood(start, b"H".to_vec(), DRIP).await;
        let attempt = send_to_loopback(&receiver.url(), BRIEF).await;
        assert!(
            matches!(attempt.outcome, Err(Failed::TimedOut(Step::Answer) | Failed::NotHttp)),
            "{start:?}: {attempt:?}"
        );
    }
}

#[tokio::test]
async fn silence_is_no_answer() {
    let receiver = Receiver::start(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let attempt = send_to_loopback(&receiver.url(), BRIEF).await;
    assert_eq!(attempt.outcome, Err(Failed::TimedOut(Step::Answer)));
    let attempt = send_to_loopback(&receiver.url().replace("http:", "https:"), BRIEF).await;
    assert_eq!(attempt.outcome, Err(Failed::TimedOut(Step::Tls)));
    assert_eq!(attempt.health(), Health::Ill);
}

#[tokio::test]
async fn of_an_endless_body_16_kib_are_read() {
    for start in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n"] {
        let (receiver, written) = flood(start, vec![b'y'; 64 * 1024], Duration::ZERO).await;
        let attempt = send_to_loopback(&receiver.url(), PATIENT).await;
        let answer = attempt.outcome.expect("an answer");
        assert_eq!((answer.body.len(), answer.body_end), (KEPT, BodyEnd::Cut));
        drop(receiver);
        // What the kernel's buffers took, at most.
        let written = written.load(Ordering::SeqCst);
        assert!(written < 64 * 1024 * 1024, "{written} bytes were taken");
    }
}

#[tokio::test]
async fn bodies_are_kept_up_to_the_limit_exactly() {
    for (length, kept, end) in
        [(0, 0, BodyEnd::Complete), (KEPT, KEPT, BodyEnd::Complete), (KEPT + 1, KEPT, BodyEnd::Cut)]
    {
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + length, b'z');
        let receiver = Receiver::saying(answer).await;
        let answer = send_to_loopback(&receiver.url(), PATIENT).await.outcome.expect("an answer");
        assert_eq!((answer.body.len(), answer.body_end), (kept, end), "{length}");
    }
}

/// The head of 10 GB of zeros, compressed: it is kept as it came.
#[tokio::test]
async fn nothing_is_decompressed() {
    let mut bomb =
        vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 0xec, 0xc1, 1, 1, 0, 0, 0, 0x80, 0x90, 0xfe, 0xaf, 0xee, 8, 0];
    bomb.resize(100 * 1024, 0);
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n".to_vec();
    answer.extend(&bomb);
    let receiver = Receiver::saying(answer).await;
    let answer = send_to_loopback(&receiver.url(), PATIENT).await.outcome.expect("an answer");
    assert_eq!((&answer.body[..], answer.body_end), (&bomb[..KEPT], BodyEnd::Cut));
}

#[tokio::test]
async fn large_headers_are_refused() {
    let many = (0..200).map(|number| format!("x-{number}: y\r\n")).collect::<String>();
    let one = format!("x: {}\r\n", "y".repeat(64 * 1024));
    for fields in [many, one] {
        let receiver = Receiver::saying(format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).await;
        let attempt = send_to_loopback(&receiver.url(), PATIENT).await;
        assert_eq!(attempt.outcome, Err(Failed::HeadersTooLarge), "{} bytes", fields.len());
    }
    for line in [b"x: y\r\n".to_vec(), vec![b'x'; 64 * 1024]] {
        let (receiver, written) = flood("HTTP/1.1 200 OK\r\n", line, Duration::ZERO).await;
        let attempt = send_to_loopback(&receiver.url(), PATIENT).await;
        assert_eq!(attempt.outcome, Err(Failed::HeadersTooLarge));
        assert!(written.load(Ordering::SeqCst) < 64 * 1024 * 1024);
    }
}

#[tokio::test]
async fn endless_interim_answers_end_with_the_attempt() {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    let (receiver, _) = flood("", interim, Duration::ZERO).await;
    let attempt = send_to_loopback(&receiver.url(), BRIEF).await;
    assert_eq!(attempt.outcome, Err(Failed::TimedOut(Step::Answer)));
}

#[tokio::test]
async fn connections_that_break_before_the_answer_fail() {
    let reset = Receiver::start(|stream| async move {
        stream.set_zero_linger().expect("a connection");
        drop(stream);
    })
    .await;
    let closed = Receiver::saying("").await;
    let halfway = Receiver::saying("HTTP/1.1 200 OK\r\ncontent-le").await;
    for receiver in [reset, closed, halfway] {
        let attempt = send_to_loopback(&receiver.url(), PATIENT).await;
        assert_eq!(attempt.outcome, Err(Failed::Closed));
        assert_eq!(attempt.verdict(0), Verdict::Retry { at_least: Duration::ZERO });
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_the_status() {
    for (rest, end) in [
        ("content-length: 100\r\n\r\npart", BodyEnd::Broken),
        ("transfer-encoding: chunked\r\n\r\n4\r\npart\r\nnonsense", BodyEnd::Broken),
        ("\r\npart", BodyEnd::Complete),
    ] {
        let receiver = Receiver::saying(format!("HTTP/1.1 200 OK\r\n{rest}")).await;
        let attempt = send_to_loopback(&receiver.url(), PATIENT).await;
        assert_eq!(attempt.verdict(0), Verdict::Delivered);
        let answer = attempt.outcome.expect("an answer");
        assert_eq!((&*answer.body, answer.body_end), (&b"part"[..], end), "{rest:?}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_no_answer() {
    for answer in
        ["SSH-2.0-OpenSSH_9.6\r\n\r\n", "-ERR unknown command\r\n", "HTTP/1.1 2 OK\r\n\r\n", "\0\0\0\0\0\0\0\0"]
    {
        let receiver = Receiver::saying(answer).await;
        let attempt = send_to_loopback(&receiver.url(), PATIENT).await;
        assert_eq!(attempt.outcome, Err(Failed::NotHttp), "{answer:?}");
    }
}
