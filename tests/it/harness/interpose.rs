//! A man in the middle who speaks RESP: sits before a real Redis, sees every command, and may
//! answer it himself, or lose the reply of one that was executed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::fault::{is_timeout, listen, wake_acceptor};

/// How long a pump waits for bytes before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(5);

/// What happens to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The server answers.
    Forward,
    /// The server does not see it; this is the answer.
    Reply(Vec<u8>),
    /// The same, and then the connection closes.
    ReplyAndClose(Vec<u8>),
    /// The server executes it; the connection closes instead of its answer.
    LoseReply,
}

type Judge = dyn Fn(&[Vec<u8>]) -> Verdict + Send + Sync;

/// The man in the middle. Ends with his connections when dropped.
pub(crate) struct Interposer {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Interposer {
    /// Before this port, asking the judge about every command. The name of a command, its first
    /// word, is given in upper case.
    pub(crate) fn to(
        target: u16,
        judge: impl Fn(&[Vec<u8>]) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        let (listener, port) = listen();
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let judge: Arc<Judge> = Arc::new(judge);
        thread::spawn(move || accept(&listener, target, &judge, &flag));
        Self { port, ended }
    }

    /// Where to dial.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Interposer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        wake_acceptor(self.port);
    }
}

fn accept(listener: &TcpListener, target: u16, judge: &Arc<Judge>, ended: &Arc<AtomicBool>) {
    while let Ok((client, _)) = listener.accept() {
        if ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else {
            continue;
        };
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("no delay");
            stream.set_read_timeout(Some(LOOK)).expect("a timeout");
        }
        let second = |s: &TcpStream| s.try_clone().expect("a second handle");
        let (answers, asker) = (second(&server), second(&client));
        let traffic = Arc::new(Traffic::new(ended));
        let (asked, judge) = (Arc::clone(&traffic), Arc::clone(judge));
        thread::spawn(move || {
            commands(&client, &server, &*judge, &asked);
            drop(client.shutdown(Shutdown::Both));
            drop(server.shutdown(Shutdown::Both));
        });
        thread::spawn(move || {
            replies(&answers, &asker, &traffic);
            drop(asker.shutdown(Shutdown::Both));
            drop(answers.shutdown(Shutdown::Both));
        });
    }
}

/// What the two directions of a connection know of each other.
struct Traffic {
    /// Commands forwarded, and replies to them that have passed.
    forwarded: AtomicU64,
    answered: Mutex<u64>,
    /// There is another.
    news: Condvar,
    /// The next bytes of the server are not delivered.
    is_losing: AtomicBool,
    /// A replication stream follows, which is no reply.
    is_stream: AtomicBool,
    ended: Arc<AtomicBool>,
}

impl Traffic {
    fn new(ended: &Arc<AtomicBool>) -> Self {
        Self {
            forwarded: AtomicU64::new(0),
            answered: Mutex::new(0),
            news: Condvar::new(),
            is_losing: AtomicBool::new(false),
            is_stream: AtomicBool::new(false),
            ended: Arc::clone(ended),
        }
    }

    /// Waits until everything forwarded has been answered: replies keep their order.
    fn wait_for_answers(&self) {
        let mut answered = self.answered.lock().expect("the count");
        while *answered < self.forwarded.load(Ordering::SeqCst)
            && !self.ended.load(Ordering::SeqCst)
        {
            (answered, _) = self.news.wait_timeout(answered, LOOK).expect("the count");
        }
    }
}

/// Client to server, command by command.
fn commands(client: &TcpStream, mut server: &TcpStream, judge: &Judge, traffic: &Traffic) {
    let mut buffer = Vec::new();
    while read_more(client, &mut buffer, &traffic.ended) {
        while let Some((mut args, length)) = parse(&buffer) {
            let raw: Vec<u8> = buffer.drain(..length).collect();
            if let Some(name) = args.first_mut() {
                name.make_ascii_uppercase();
            }
            let verdict = judge(&args);
            if let Verdict::Reply(reply) | Verdict::ReplyAndClose(reply) = &verdict {
                traffic.wait_for_answers();
                let sent = (&*client).write_all(reply);
                if sent.is_err() || matches!(verdict, Verdict::ReplyAndClose(_)) {
                    return;
                }
                continue;
            }
            if verdict == Verdict::LoseReply {
                traffic.wait_for_answers();
                traffic.is_losing.store(true, Ordering::SeqCst);
            }
            if args[0] == b"PSYNC" {
                traffic.wait_for_answers();
                traffic.is_stream.store(true, Ordering::SeqCst);
            }
            traffic.forwarded.fetch_add(1, Ordering::SeqCst);
            if server.write_all(&raw).is_err() {
                return;
            }
        }
    }
}

/// Server to client, until a reply is to be lost: when it comes, the command has been executed.
fn replies(server: &TcpStream, mut client: &TcpStream, traffic: &Traffic) {
    let mut buffer = Vec::new();
    while read_more(server, &mut buffer, &traffic.ended) {
        if traffic.is_losing.load(Ordering::SeqCst) && !buffer.is_empty() {
            return;
        }
        let mut whole = 0;
        if traffic.is_stream.load(Ordering::SeqCst) {
            whole = buffer.len();
        } else {
            while let Some(length) = reply_length(&buffer[whole..]) {
                whole += length;
                *traffic.answered.lock().expect("the count") += 1;
                traffic.news.notify_all();
            }
        }
        if client.write_all(&buffer[..whole]).is_err() {
            return;
        }
        buffer.drain(..whole);
    }
}

/// The length of the first reply of a buffer, if it is whole.
fn reply_length(buffer: &[u8]) -> Option<usize> {
    let (head, mut at) = line(buffer, 0)?;
    let count = |digits| std::str::from_utf8(digits).ok()?.parse::<i64>().ok();
    match head.split_first()? {
        (b'$' | b'=' | b'!', digits) => {
            if let Ok(length) = usize::try_from(count(digits)?) {
                at += length + 2;
            }
        }
        (kind @ (b'*' | b'~' | b'%' | b'>'), digits) => {
            let items = count(digits)?.max(0) * if *kind == b'%' { 2 } else { 1 };
            for _ in 0..items {
                at += reply_length(buffer.get(at..)?)?;
            }
        }
        _ => {}
    }
    (at <= buffer.len()).then_some(at)
}

/// False at the end of the connection or of the man.
fn read_more(mut from: &TcpStream, buffer: &mut Vec<u8>, ended: &AtomicBool) -> bool {
    let mut chunk = [0; 16 * 1024];
    match from.read(&mut chunk) {
        Ok(0) => false,
        Ok(count) => {
            buffer.extend_from_slice(&chunk[..count]);
            true
        }
        Err(error) => is_timeout(&error) && !ended.load(Ordering::SeqCst),
    }
}

/// The first command of a buffer, as `*n` of bulks or inline, and its length.
pub(crate) fn parse(buffer: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (head, mut at) = line(buffer, 0)?;
    let Some(count) = head.strip_prefix(b"*") else {
        let words = head.split(|b| *b == b' ').map(<[u8]>::to_vec);
        return Some((words.filter(|w| !w.is_empty()).collect(), at));
    };
    let mut args = Vec::new();
    for _ in 0..number(count) {
        let (head, start) = line(buffer, at)?;
        let length = number(head.strip_prefix(b"$").expect("a bulk string"));
        let bulk = buffer.get(start..start + length)?;
        at = start + length + 2;
        if buffer.len() < at {
            return None;
        }
        args.push(bulk.to_vec());
    }
    Some((args, at))
}

/// A line without its end, and where the next one begins.
fn line(buffer: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let rest = buffer.get(from..)?;
    let end = rest.iter().position(|b| *b == b'\n')?;
    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    Some((line, from + end + 1))
}

fn number(digits: &[u8]) -> usize {
    let text = std::str::from_utf8(digits).expect("digits");
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is no number"))
}
