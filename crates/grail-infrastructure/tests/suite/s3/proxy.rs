//! A proxy before an S3 server that breaks connections and answers as a test tells it to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What happens to one request.
#[derive(Clone, Debug)]
pub enum Fate {
    Pass,
    /// The connection is reset when this many bytes of the request's body were read; the server
    /// never sees the request.
    ResetUpload(usize),
    /// The server carries the request out, but the connection is reset before its answer.
    LoseAnswer,
    /// The connection is closed after this many bytes of the answer's body.
    CutAnswer(usize),
    /// Nothing more comes after this many bytes of the answer's body.
    Silence(usize),
    /// The proxy answers itself: a status, a code of S3, and further headers.
    Refuse(u16, &'static str, &'static str),
    /// The answer comes after this time.
    Slow(Duration),
    /// The server sees the request after this was cancelled.
    HoldUntil(CancellationToken),
}

/// Decides a request's fate from its method and target, and from how many with the same it saw.
pub type Plan = Arc<dyn Fn(&str, &str, usize) -> Fate + Send + Sync>;

/// The proxy, stopped when dropped.
pub struct Proxy {
    pub port: u16,
    seen: Arc<Mutex<Vec<(String, String)>>>,
    serving: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    /// Stands before the server on `upstream`; requests go as `plan` says.
    pub async fn start(
        upstream: u16,
        plan: impl Fn(&str, &str, usize) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (plan, log): (Plan, _) = (Arc::new(plan), Arc::clone(&seen));
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (plan, log) = (Arc::clone(&plan), Arc::clone(&log));
                // A connection that ends early is the point of the proxy.
                tokio::spawn(async move { drop(carry(client, upstream, &plan, &log).await) });
            }
        });
        Self { port, seen, serving }
    }

    /// Returns how many requests had this method and this in their target.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(m, target)| m == method && target.contains(part)).count()
    }
}

/// Carries one request; each connection has one.
async fn carry(
    mut client: TcpStream,
    upstream: u16,
    plan: &Plan,
    log: &Mutex<Vec<(String, String)>>,
) -> std::io::Result<()> {
    let (head, mut body) = read_head(&mut client).await?;
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let before = {
        let mut log = log.lock().unwrap();
        let same = (method.to_owned(), target.to_owned());
        log.push(same.clone());
        log.iter().filter(|seen| **seen == same).count() - 1
    };
    let fate = plan(method, target, before);
    let length = header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    if let Fate::ResetUpload(after) = fate {
        read_up_to(&mut client, &mut body, after.min(length)).await?;
        return reset(&client);
    }
    read_up_to(&mut client, &mut body, length).await?;
    if let Fate::Refuse(status, code, headers) = fate {
        let xml = format!("<Error><Code>{code}</Code><Message>told to</Message></Error>");
        let xml = if method == "HEAD" { String::new() } else { xml };
        let length = xml.len();
        let answer = format!(
            "HTTP/1.1 {status} No\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{xml}"
        );
        return client.write_all(answer.as_bytes()).await;
    }
    if let Fate::HoldUntil(gate) = &fate {
        gate.cancelled().await;
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).await?;
    server.write_all(head.trim_end_matches("\r\n").as_bytes()).await?;
    server.write_all(b"\r\nconnection: close\r\n\r\n").await?;
    server.write_all(&body).await?;
    let (head, mut body) = read_head(&mut server).await?;
    match fate {
        Fate::LoseAnswer => {
            server.read_to_end(&mut body).await?;
            return reset(&client);
        }
        Fate::Slow(time) => tokio::time::sleep(time).await,
        _ => {}
    }
    client.write_all(head.as_bytes()).await?;
    match fate {
        Fate::CutAnswer(after) | Fate::Silence(after) => {
            read_up_to(&mut server, &mut body, after).await?;
            client.write_all(&body[..after.min(body.len())]).await?;
            if matches!(fate, Fate::Silence(_)) {
                std::future::pending::<()>().await;
            }
        }
        _ => {
            client.write_all(&body).await?;
            tokio::io::copy(&mut server, &mut client).await?;
        }
    }
    client.shutdown().await
}

/// Returns a head, its empty line included, and what was read of the body.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn read_up_to(
    stream: &mut TcpStream,
    body: &mut Vec<u8>,
    length: usize,
) -> std::io::Result<()> {
    while body.len() < length && stream.read_buf(body).await? > 0 {}
    Ok(())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Lets the connection end with a reset instead of an orderly end.
fn reset(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_zero_linger()
}
