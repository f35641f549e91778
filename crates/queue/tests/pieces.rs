//! How every queue brings pieces of texts to those who read along, Redis's and the one in the process.

use prediction::PredictionId;
use queue::{Ask, Config, LONGEST_PIECE, Location, Notice, Piece, Queue};
use std::time::Duration;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::{broadcast, mpsc},
};
use uuid::Uuid;

/// How long a test waits for what must happen: so long that only what never happens takes it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A queue whose Redis may be as slow as a busy machine is.
fn config() -> Config {
    Config { call_timeout: PATIENCE / 2, ..Config::default() }
}

/// Two handles on one queue, of two processes.
async fn redis() -> [Queue; 2] {
    let (url, namespace) = servers::redis().await;
    let location = Location::Redis { url, namespace };
    let open = async || Queue::open(&location, config()).await.expect("a good URL");
    [open().await, open().await]
}

/// Clones of one.
async fn in_process() -> [Queue; 2] {
    let queue = Queue::open(&Location::InProcess, Config::default()).await.expect("nothing to fail");
    [queue.clone(), queue]
}

macro_rules! both {
    ($($name:ident;)+) => {
        mod through_redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::redis().await).await;
            })+
        }
        mod in_one_process {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::in_process().await).await;
            })+
        }
    };
}

both! {
    pieces_reach_those_who_ask;
    a_reader_asks_again_for_what_it_missed;
    a_later_run_is_read_from_its_beginning;
    drafts_of_one_epoch_are_not_mixed;
}

fn piece(id: PredictionId, epoch: i32, from: usize, text: &str) -> Piece {
    Piece { id, epoch, draft: 1, from: from as u64, text: text.into() }
}

/// The next asking for this prediction that is as wanted.
async fn asked(notices: &mut broadcast::Receiver<Notice>, is_wanted: impl Fn(&Ask) -> bool) -> Ask {
    let asking = async {
        loop {
            if let Notice::Asked(asks) = notices.recv().await.expect("the queue is there")
                && let Some(ask) = asks.iter().find(|ask| is_wanted(ask))
            {
                return *ask;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("somebody asks")
}

/// What a reader in a task of its own reads.
fn read_in_background(queue: &Queue, id: PredictionId) -> mpsc::UnboundedReceiver<Piece> {
    let (sender, read) = mpsc::unbounded_channel();
    let mut reader = queue.read(id);
    tokio::spawn(async move { while sender.send(reader.next().await).is_ok() {} });
    read
}

async fn next(read: &mut mpsc::UnboundedReceiver<Piece>) -> Piece {
    tokio::time::timeout(PATIENCE, read.recv()).await.expect("a piece comes").expect("its reader reads")
}

async fn pieces_reach_those_who_ask([first, second]: [Queue; 2]) {
    let (mut at_first, mut at_second) = (first.listen(), second.listen());
    for (writer, notices, reader) in [(&first, &mut at_first, &second), (&second, &mut at_second, &first)] {
        let (id, other) = (PredictionId::generate(), PredictionId::generate());
        let (mut one, mut another) = (read_in_background(reader, id), read_in_background(reader, id));
        let ask = asked(notices, |ask| ask.id == id).await;
        assert_eq!((ask.epoch, ask.from), (0, 0));
        writer.send(ask.reader, vec![piece(other, 1, 0, "not theirs"), piece(id, 1, 0, "The ")]);
        writer.send(ask.reader, vec![piece(id, 1, 4, "l\u{f6}t")]);
        for read in [&mut one, &mut another] {
            assert_eq!(next(read).await, piece(id, 1, 0, "The "));
            assert_eq!(next(read).await, piece(id, 1, 4, "l\u{f6}t"));
        }
        // It goes on asking, for what it has not.
        let again = asked(notices, |ask| ask.id == id && ask.from == 8).await;
        assert_eq!((again.reader, again.epoch), (ask.reader, 1));
    }
}

async fn a_reader_asks_again_for_what_it_missed([first, second]: [Queue; 2]) {
    let (mut notices, id) = (first.listen(), PredictionId::generate());
    // One that does not read yet has room for a few pieces.
    let mut slow = second.read(id);
    let mut read = read_in_background(&second, id);
    let ask = asked(&mut notices, |ask| ask.id == id).await;
    let text: String = (0..1000).map(|number| format!("{number} ")).collect();
    let mut from = 0;
    for word in text.split_inclusive(' ') {
        first.send(ask.reader, vec![piece(id, 3, from, word)]);
        from += word.len();
    }
    first.send(ask.reader, vec![piece(id, 3, text.len() + 5, "from the future")]);
    let writer = async {
        loop {
            let ask = asked(&mut notices, |ask| ask.id == id).await;
            let from = usize::try_from(ask.from).expect("a place");
            // More than is wanted is no harm.
            first.send(ask.reader, vec![piece(id, 3, from.saturating_sub(4), &text[from.saturating_sub(4)..])]);
        }
    };
    let whole = async {
        let (mut said, mut slowly) = (String::new(), String::new());
        while said.len() < text.len() {
            said.push_str(&next(&mut read).await.text);
        }
        while slowly.len() < text.len() {
            let piece = slow.next().await;
            assert_eq!(piece.from, slowly.len() as u64, "no gaps");
            slowly.push_str(&piece.text);
        }
        (said, slowly)
    };
    let (said, slowly) = tokio::select! {
        () = writer => unreachable!("it writes for ever"),
        whole = tokio::time::timeout(PATIENCE, whole) => whole.expect("all comes in time"),
    };
    assert_eq!((said.as_str(), slowly.as_str()), (text.as_str(), text.as_str()));
}

async fn a_later_run_is_read_from_its_beginning([first, second]: [Queue; 2]) {
    let (mut notices, id) = (first.listen(), PredictionId::generate());
    let mut read = read_in_background(&second, id);
    let ask = asked(&mut notices, |ask| ask.id == id).await;
    first.send(ask.reader, vec![piece(id, 1, 0, "The old")]);
    first.send(ask.reader, vec![piece(id, 3, 4, "beginning is lost"), piece(id, 1, 7, " one goes on")]);
    assert_eq!(next(&mut read).await, piece(id, 1, 0, "The old"));
    let ask = asked(&mut notices, |ask| ask.id == id && ask.epoch == 3).await;
    assert_eq!(ask.from, 0);
    first.send(ask.reader, vec![piece(id, 3, 0, "The new")]);
    assert_eq!(next(&mut read).await, piece(id, 3, 0, "The new"));
}

async fn drafts_of_one_epoch_are_not_mixed([first, second]: [Queue; 2]) {
    let (mut notices, id) = (first.listen(), PredictionId::generate());
    let other = |from: usize, text: &str| Piece { draft: 2, ..piece(id, 1, from, text) };
    let mut read = read_in_background(&second, id);
    let ask = asked(&mut notices, |ask| ask.id == id).await;
    // The other run is as far, and then has more: none of it belongs to what was read.
    first.send(ask.reader, vec![piece(id, 1, 0, "The one"), other(7, " is not"), piece(id, 1, 7, " is")]);
    assert_eq!(next(&mut read).await, piece(id, 1, 0, "The one"));
    assert_eq!(next(&mut read).await, piece(id, 1, 7, " is"));
    let ask = asked(&mut notices, |ask| ask.id == id && ask.from == 10).await;
    assert_eq!((ask.epoch, ask.draft), (1, 1));
    // So the other one begins again, and is read from there.
    first.send(ask.reader, vec![other(0, "The other"), piece(id, 1, 10, " of"), other(9, " begins")]);
    assert_eq!(next(&mut read).await, other(0, "The other"));
    assert_eq!(next(&mut read).await, other(9, " begins"));
    let ask = asked(&mut notices, |ask| ask.id == id && ask.from == 16).await;
    assert_eq!((ask.epoch, ask.draft), (1, 2));
}

/// A way to Redis on which a connection gets through no more than so many bytes.
async fn narrow(url: &str, most: usize) -> String {
    let redis = url.trim_start_matches("redis://").split('/').next().expect("a host").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&redis).await.expect("Redis is there");
            let ((client, mut answers), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut answers).await });
            tokio::spawn(async move {
                let mut client = client.take(most as u64);
                let _ = tokio::io::copy(&mut client, &mut to_server).await;
                // Neither side is told.
                std::future::pending::<()>().await;
            });
        }
    });
    format!("redis://127.0.0.1:{port}")
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_hold_up_no_notice() {
    let (url, namespace) = servers::redis().await;
    let open = async |url: String| {
        let location = Location::Redis { url, namespace: namespace.clone() };
        Queue::open(&location, config()).await.expect("a good URL")
    };
    let (first, second) = (open(narrow(&url, 256 << 10).await).await, open(url.clone()).await);
    let (mut notices, id) = (second.listen(), PredictionId::generate());
    let text = "x".repeat(LONGEST_PIECE);
    for _ in 0..100 {
        first.send(Uuid::new_v4(), (0..64).map(|number| piece(id, 1, number * LONGEST_PIECE, &text)).collect());
    }
    first.tell(Notice::Finished([id].into())).await;
    let heard = tokio::time::timeout(PATIENCE, notices.recv()).await.expect("it comes").expect("the queue is there");
    assert_eq!(heard, Notice::Finished([id].into()));
}
