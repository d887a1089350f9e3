//! Several clients on one channel.

use super::*;
use crate::commands::access::AccessPolicy;
use crate::commands::authentication::{AccessToken, Authentication};
use crate::commands::{exec::Children, file::Files};
use crate::freeze::Freezer;
use crate::freeze::engine::Engine;
use crate::freeze::linux::LinuxOps;
use crate::freeze::policy::{FreezeLimits, FreezePolicy};
use crate::state::StateDir;
use crate::transport::VsockAccess;
use std::cell::Cell;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

const TOKEN: &str = "a token of 26 characters..";
const PING: &str = r#"{"execute":"guest-ping"}"#;
const PONG: &str = "{\"return\": {}}\n";

/// The directory is dropped last.
struct Rig {
    session: Session,
    channel: Channel,
    directory: tempfile::TempDir,
}

impl Rig {
    /// Call it inside a runtime. Nothing may be frozen with it.
    fn new(authenticate: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        fs::write(&file, TOKEN).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let token =
            authenticate.then(|| AccessToken::read(&file).unwrap_or_else(|why| panic!("{why}")));
        let state = StateDir::new(directory.path());
        let limits = FreezeLimits::default();
        let files = Files::new(state.clone());
        let ops = LinuxOps::new(state, None, None, limits.step, true);
        let engine = Engine::new(ops, false, FreezePolicy::default(), limits);
        let socket = UnixListener::bind(directory.path().join("sock")).unwrap();
        let access = VsockAccess {
            cids: Vec::new(),
            authenticate,
        };
        Self {
            session: Session::new(
                Context {
                    freezer: Freezer::new(engine),
                    snapshot: None,
                    policy: AccessPolicy::default(),
                    authentication: Authentication::with(token),
                    files,
                    children: Children::default(),
                },
                None,
            ),
            channel: Channel::like_vsock(socket, access),
            directory,
        }
    }
}

/// One like the agent's.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Runs `body`, which gets the path of the socket, beside the agent.
fn beside_the_agent(authenticate: bool, body: impl AsyncFnOnce(PathBuf)) {
    runtime().block_on(async {
        let mut rig = Rig::new(authenticate);
        let socket = rig.directory.path().join("sock");
        let mut stop = StopSignals::never().unwrap();
        tokio::select! {
            end = serve(&mut rig.session, &mut rig.channel, &mut stop) => panic!("{end:?}"),
            () = body(socket) => {}
        }
    });
}

struct Peer(BufReader<UnixStream>);

impl Peer {
    async fn connect(socket: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(socket).await.unwrap()))
    }

    async fn send(&mut self, bytes: &str) {
        self.0.get_mut().write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Empty at the end of the file.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line
    }

    async fn ask(&mut self, request: &str) -> String {
        self.send(request).await;
        self.send("\n").await;
        self.line().await
    }

    async fn authenticate(&mut self, token: &str) -> String {
        let request =
            format!(r#"{{"execute":"x-guest-authenticate","arguments":{{"token":"{token}"}}}}"#);
        self.ask(&request).await
    }
}

#[test]
fn each_client_has_its_own_requests_and_replies() {
    beside_the_agent(false, async |socket| {
        let mut first = Peer::connect(&socket).await;
        let mut second = Peer::connect(&socket).await;
        first.send(r#"{"execute":"guest-sync","#).await;
        assert_eq!(second.ask(PING).await, PONG);
        assert_eq!(
            first.ask(r#""arguments":{"id":7}}"#).await,
            "{\"return\": 7}\n"
        );
        // What a client leaves behind belongs to no other.
        first.send(r#"{"execute":"guest-exec","id":""#).await;
        drop(first);
        let mut third = Peer::connect(&socket).await;
        assert_eq!(third.ask(PING).await, PONG);
        assert_eq!(second.ask(PING).await, PONG);
    });
}

#[test]
fn a_client_that_does_not_read_delays_no_other() {
    beside_the_agent(false, async |socket| {
        let mut rude = Peer::connect(&socket).await;
        let id = "i".repeat(4 << 20);
        let large = format!(r#"{{"execute":"guest-ping","id":"{id}"}}"#);
        rude.send(&format!("{large}\n{PING}\n")).await;
        let mut other = Peer::connect(&socket).await;
        for _ in 0..100 {
            assert_eq!(other.ask(PING).await, PONG);
        }
        let reply = rude.line().await;
        assert!(reply == format!("{{\"return\": {{}}, \"id\": \"{id}\"}}\n"));
        assert_eq!(rude.line().await, PONG);
    });
}

#[test]
fn a_client_that_closes_its_sending_side_gets_its_replies() {
    beside_the_agent(false, async |socket| {
        let mut peer = Peer::connect(&socket).await;
        peer.send(&format!("{PING}\n{PING}\n")).await;
        peer.0.get_mut().shutdown().await.unwrap();
        let mut replies = String::new();
        peer.0.read_to_string(&mut replies).await.unwrap();
        assert_eq!(replies, PONG.repeat(2));
    });
}

#[test]
fn a_client_that_has_not_sent_the_token_is_refused() {
    beside_the_agent(true, async |socket| {
        let mut peer = Peer::connect(&socket).await;
        let mut other = Peer::connect(&socket).await;
        let name = r#"{"execute":"guest-get-host-name"}"#;
        let refused = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"authentication required: send \
                       x-guest-authenticate with the token first\"}}\n";
        assert_eq!(peer.ask(PING).await, PONG);
        assert_eq!(peer.ask(name).await, refused);
        assert!(
            peer.authenticate(&TOKEN[1..])
                .await
                .contains("the token is wrong")
        );
        assert_eq!(peer.ask(name).await, refused);
        assert_eq!(peer.authenticate(TOKEN).await, PONG);
        assert!(
            peer.ask(name)
                .await
                .starts_with("{\"return\": {\"host-name\"")
        );
        assert_eq!(other.ask(name).await, refused);
    });
    beside_the_agent(false, async |socket| {
        let mut peer = Peer::connect(&socket).await;
        assert!(
            peer.authenticate(TOKEN)
                .await
                .contains("no token is configured")
        );
    });
}

#[test]
fn a_client_without_the_token_is_disconnected_after_64_kib() {
    beside_the_agent(true, async |socket| {
        let mut flood = Peer::connect(&socket).await;
        flood.send("{\"execute\":\"").await;
        let piece = "x".repeat(1024);
        for _ in 0..64 {
            // Once the agent has closed the connection, a send fails.
            flood.0.get_mut().write_all(piece.as_bytes()).await.ok();
        }
        // What was not read makes the end a reset.
        let mut rest = Vec::new();
        flood.0.read_to_end(&mut rest).await.unwrap_or_default();
        assert_eq!(rest, b"");
        let mut client = Peer::connect(&socket).await;
        assert_eq!(client.authenticate(TOKEN).await, PONG);
        let id = "x".repeat(100_000);
        let ping = format!(r#"{{"execute":"guest-ping","id":"{id}"}}"#);
        let reply = client.ask(&ping).await;
        assert!(reply.len() > 100_000, "{} bytes", reply.len());
    });
}

#[test]
fn half_a_request_goes_with_its_client_and_room_is_for_those_who_are_connected() {
    runtime().block_on(async {
        let mut rig = Rig::new(false);
        let socket = rig.directory.path().join("sock");
        let mut peer = Peer::connect(&socket).await;
        peer.send(r#"{"execute":"#).await;
        let client = receive(&mut rig).await;
        let Rig {
            session, channel, ..
        } = &mut rig;
        assert_eq!(session.inbox.framers.len(), 1);
        session.inbox.drop_fragments(channel);
        assert_eq!(session.inbox.framers.len(), 1, "it is connected");
        let gone = client + 1000;
        let waiting = |client| QueuedRequest {
            event: Event::Message(Value::Null),
            client,
            discard_reply: false,
        };
        for _ in 0..=MAX_QUEUED_REQUESTS {
            session.inbox.requests.push_back(waiting(client));
            session.inbox.requests.push_back(waiting(gone));
            session.inbox.requests.push_back(waiting(gone + 1));
            session.inbox.requests.pop_back();
        }
        assert!(!session.inbox.has_room(channel), "what {gone} left behind");
        session.inbox.requests.pop_back();
        assert!(session.inbox.has_room(channel));
        drop(peer);
        let end = channel.read(&mut [0; 16], &|_| 0).await.unwrap();
        assert_eq!(end, Received { client, count: 0 });
        session.inbox.drop_fragments(channel);
        assert!(session.inbox.framers.is_empty());
    });
}

/// As many as are served at once.
async fn crowd(socket: &Path) -> Vec<Peer> {
    let mut crowd = Vec::new();
    for _ in 0..16 {
        let mut peer = Peer::connect(socket).await;
        assert_eq!(peer.ask(PING).await, PONG);
        crowd.push(peer);
    }
    crowd
}

#[test]
fn clients_without_the_token_keep_nobody_out() {
    beside_the_agent(true, async |socket| {
        let mut crowd = crowd(&socket).await;
        assert_eq!(crowd[0].authenticate(TOKEN).await, PONG);
        let mut late = Peer::connect(&socket).await;
        assert_eq!(late.authenticate(TOKEN).await, PONG);
        // The oldest of those that have not authenticated.
        assert_eq!(crowd[1].line().await, "");
        assert_eq!(crowd[2].ask(PING).await, PONG);
        assert_eq!(crowd[0].ask(PING).await, PONG);
    });
}

#[test]
fn more_clients_than_are_served_wait_for_their_turn() {
    beside_the_agent(false, async |socket| {
        let mut crowd = crowd(&socket).await;
        let mut late = Peer::connect(&socket).await;
        late.send(PING).await;
        let answered = Cell::new(false);
        tokio::join!(
            async {
                assert_eq!(late.line().await, PONG);
                answered.set(true);
            },
            async {
                for peer in &mut crowd {
                    assert_eq!(peer.ask(PING).await, PONG);
                }
                assert!(!answered.get());
                crowd.pop();
            }
        );
    });
}

/// By the channel's number of the client.
async fn receive(rig: &mut Rig) -> u64 {
    let mut buffer = [0; READ_SIZE];
    let received = rig.channel.read(&mut buffer, &|_| 0).await.unwrap();
    let inbox = &mut rig.session.inbox;
    inbox.enqueue(&rig.channel, received, &buffer);
    received.client
}

#[test]
fn a_guest_sync_discards_its_own_clients_replies_alone() {
    runtime().block_on(async {
        let mut rig = Rig::new(false);
        let socket = rig.directory.path().join("sock");
        let (mut first, mut second) = (Peer::connect(&socket).await, Peer::connect(&socket).await);
        first.send(PING).await;
        let patient = receive(&mut rig).await;
        let sync = r#"{"execute":"guest-sync","arguments":{"id":1}}"#;
        second.send(&format!("{PING}{sync}{PING}")).await;
        let impatient = receive(&mut rig).await;
        let (client, sync) = rig.session.inbox.remove_first_sync(&rig.channel).unwrap();
        assert_eq!((client, sync.execute.as_str()), (impatient, "guest-sync"));
        let left = rig.session.inbox.requests.iter();
        let left: Vec<_> = left.map(|r| (r.client, r.discard_reply)).collect();
        assert_eq!(
            left,
            [(patient, false), (impatient, true), (impatient, false)]
        );
    });
}
