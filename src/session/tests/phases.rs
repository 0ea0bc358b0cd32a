//! What each side is told, for every cause and from every phase in which it can happen.

use super::super::*;
use super::world::{World, close_frame, frame};
use crate::drain;
use crate::inspect::Kind;
use std::time::Duration;

/// Something that ends a session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Happening {
    ClientBreaksRule,
    ServerBreaksRule,
    ClientCloses,
    ServerCloses,
    ServerRestarts,
    ClientVanishes,
    ServerVanishes,
    Drain,
    Shed,
}

use Happening::*;

const ALL: [Happening; 9] = [
    ClientBreaksRule,
    ServerBreaksRule,
    ClientCloses,
    ServerCloses,
    ServerRestarts,
    ClientVanishes,
    ServerVanishes,
    Drain,
    Shed,
];

fn happens(world: &mut World, what: Happening) {
    let bad = b"caf\xc3\x28";
    match what {
        ClientBreaksRule => world.send(Side::Client, &frame(Side::Client, 0x81, bad)),
        ServerBreaksRule => world.send(Side::Server, &frame(Side::Server, 0x81, bad)),
        ClientCloses => world.send(Side::Client, &close_frame(Side::Client, 4001)),
        ServerCloses => world.send(Side::Server, &close_frame(Side::Server, 4002)),
        ServerRestarts => world.send(Side::Server, &close_frame(Side::Server, 1012)),
        ClientVanishes => world.end(Side::Client),
        ServerVanishes => world.end(Side::Server),
        Drain => world.command(Command::Drain(drain::Cause::Operator)),
        Shed => world.command(Command::Shed(Side::Client)),
    }
    world.run_until_idle();
}

fn settings() -> Settings {
    Settings::default()
}

/// The Close codes that the client and the server get, where this happens first.
fn expected_closes(what: Happening) -> (Option<u16>, Option<u16>) {
    match what {
        ClientBreaksRule => (Some(1007), Some(1001)),
        ServerBreaksRule => (Some(1011), Some(1007)),
        ClientCloses => (None, Some(4001)),
        ServerCloses => (Some(4002), None),
        // The server is answered when its client has answered: at the latest when the time is over.
        ServerRestarts => (Some(1012), Some(1012)),
        ClientVanishes => (None, Some(1001)),
        ServerVanishes => (Some(1012), None),
        Drain => (Some(1012), Some(1001)),
        Shed => (Some(1013), Some(1001)),
    }
}

/// From the first phase, and with peers that never answer: each side is told what the table says, and the end comes in time.
#[test]
fn from_open() {
    for what in ALL {
        let mut world = World::new(settings(), 1);
        happens(&mut world, what);
        world.advance(Duration::from_secs(6));
        let outcome = world.session.outcome().expect("it is over");
        let (client, server) = expected_closes(what);
        // A side that closed is answered, with its own code.
        let client = client.or((what == ClientCloses).then_some(4001));
        let server = server.or((what == ServerCloses).then_some(4002));
        assert_eq!(world.close_to(Side::Client), client, "{what:?}");
        assert_eq!(world.close_to(Side::Server), server, "{what:?}");
        assert!(outcome.timed_out, "{what:?}: nobody answers");
    }
}

/// Where one thing has happened, whatever happens next changes the first cause and the first Close of no side.
#[test]
fn what_happens_later_changes_nothing_that_was_told() {
    for first in ALL {
        for second in ALL {
            for third in ALL {
                let mut world = World::new(settings(), 2);
                happens(&mut world, first);
                let cause = world.session.phase().cause();
                let before = SIDES.map(|side| world.close_to(side));
                happens(&mut world, second);
                happens(&mut world, third);
                world.advance(Duration::from_secs(20));
                let outcome = world.session.outcome().expect("it is over");
                let name = format!("{first:?}, {second:?}, {third:?}");
                assert_eq!(Some(outcome.cause), cause, "{name}");
                for (side, before) in SIDES.into_iter().zip(before) {
                    if before.is_some() {
                        assert_eq!(world.close_to(side), before, "{name}: {side:?}");
                    }
                    let (frames, unfinished) = world.frames_to(side);
                    let closes = frames.iter().filter(|(first, _)| *first == 0x88);
                    assert!(closes.count() <= 1 && unfinished == 0, "{name}: {side:?}");
                }
            }
        }
    }
}

/// A drain waits for the end of the message under way toward the client, for as long as its grace.
#[test]
fn drain_due() {
    let start = frame(Side::Server, 0x01, b"begun");
    let rest = frame(Side::Server, 0x80, b"done");
    let mut world = World::new(settings(), 3);
    world.send(Side::Server, &start);
    world.run_until_idle();
    world.command(Command::Drain(drain::Cause::Operator));
    assert_eq!(
        world.session.phase(),
        &Phase::DrainDue {
            cause: drain::Cause::Operator
        }
    );
    world.advance(Duration::from_secs(4));
    assert_eq!(world.close_to(Side::Client), None);
    world.send(
        Side::Server,
        &[rest.clone(), frame(Side::Server, 0x81, b"more")].concat(),
    );
    world.run_until_idle();
    assert_eq!(world.close_to(Side::Client), Some(1012));
    assert_eq!(
        world.directions[1].forwarded,
        [start.clone(), rest].concat()
    );

    for ends_grace in [
        &(|world: &mut World| world.advance(Duration::from_secs(6))) as &dyn Fn(&mut World),
        &|world| world.command(Command::Hurry),
    ] {
        let mut world = World::new(settings(), 3);
        world.send(Side::Server, &start);
        world.run_until_idle();
        world.command(Command::Drain(drain::Cause::Operator));
        ends_grace(&mut world);
        assert_eq!(world.close_to(Side::Client), Some(1012));
    }
}

/// From every other end, while a drain waits: the drain is forgotten.
#[test]
fn from_drain_due() {
    for what in ALL
        .into_iter()
        .filter(|what| !matches!(what, Drain | ServerBreaksRule))
    {
        let mut world = World::new(settings(), 4);
        world.send(Side::Server, &frame(Side::Server, 0x01, b"begun"));
        world.run_until_idle();
        world.command(Command::Drain(drain::Cause::Operator));
        happens(&mut world, what);
        world.advance(Duration::from_millis(100));
        let cause = world.session.phase().cause().expect("it ends");
        assert!(!matches!(cause, Cause::Drained { .. }), "{what:?}");
        let (client, _) = expected_closes(what);
        assert_eq!(world.close_to(Side::Client), client, "{what:?}");
    }
}

/// What the client sends between its 1012 and its own Close reaches the server, which is told 1001 only then.
#[test]
fn client_told() {
    let mut world = World::new(settings(), 5);
    world.command(Command::Drain(drain::Cause::Operator));
    assert!(matches!(world.session.phase(), Phase::ClientTold { .. }));
    let late = frame(Side::Client, 0x81, b"late");
    world.send(Side::Client, &late);
    world.run_until_idle();
    assert_eq!(world.directions[0].forwarded, late);
    assert_eq!(world.close_to(Side::Server), None);
    world.send(Side::Client, &close_frame(Side::Client, 1012));
    world.run_until_idle();
    assert_eq!(world.close_to(Side::Server), Some(1001));
    assert_eq!(
        world.directions[0].forwarded, late,
        "its Close is not the server's business"
    );
    world.send(Side::Server, &close_frame(Side::Server, 1001));
    world.run_until_idle();
    let outcome = world.session.outcome().expect("it is over");
    assert_eq!(
        (outcome.client_close, outcome.server_close),
        (Some(Some(1012)), Some(Some(1001)))
    );
    assert!(!outcome.timed_out && world.directions[1].shut_down);
}

/// A side that takes nothing is given up, and the other side is told.
#[test]
fn a_side_that_does_not_read() {
    for (side, code) in [(Side::Client, 1001), (Side::Server, 1012)] {
        let mut world = World::new(settings(), 6);
        world.appetite[side as usize] = 100;
        world.send(side.other(), &frame(side.other(), 0x82, &[7; 5000]));
        world.run_until_idle();
        world.advance(Duration::from_secs(50));
        assert_eq!(world.session.phase(), &Phase::Open);
        world.advance(Duration::from_secs(15));
        assert_eq!(
            world.session.phase().cause(),
            Some(Cause::Stalled { by: side })
        );
        assert_eq!(world.close_to(side.other()), Some(code));
        let limit = ReaderLimit::WriteTimeout;
        assert!(world.events.contains(&Event::SlowReader { side, limit }));
    }
}

/// A write that fails tells nothing yet: the side may have said something before it went.
#[test]
fn a_write_that_fails() {
    let mut world = World::new(settings(), 7);
    world.broken[Side::Client as usize] = true;
    world.send(Side::Server, &frame(Side::Server, 0x81, b"lost"));
    world.run_until_idle();
    assert_eq!(world.session.phase().cause(), None);
    world.send(Side::Client, &frame(Side::Client, 0x81, b"last words"));
    world.run_until_idle();
    assert_eq!(
        world.directions[0].forwarded,
        frame(Side::Client, 0x81, b"last words")
    );
    world.advance(Duration::from_secs(6));
    let by = Side::Client;
    assert_eq!(world.session.phase().cause(), Some(Cause::Vanished { by }));
    assert_eq!(world.close_to(Side::Server), Some(1001));
}

#[test]
fn liveness() {
    let mut settings = settings();
    settings.liveness = Liveness {
        ping_interval: [Duration::from_secs(20), Duration::ZERO],
        pong_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(100),
    };
    // It answers: its Pongs go nowhere, and in the end the connection is idle all the same.
    let mut world = World::new(settings.clone(), 8);
    for turn in 1..=4 {
        world.advance(Duration::from_secs(20));
        let (frames, _) = world.frames_to(Side::Client);
        assert_eq!(frames.len(), turn);
        let (first, payload) = frames[turn - 1].clone();
        assert_eq!(first, 0x89);
        world.send(Side::Client, &frame(Side::Client, 0x8a, &payload));
        world.run_until_idle();
    }
    assert!(world.directions[0].forwarded.is_empty());
    world.advance(Duration::from_secs(21));
    assert_eq!(world.session.phase().cause(), Some(Cause::Idle));
    // It does not.
    let mut world = World::new(settings, 8);
    world.advance(Duration::from_secs(31));
    let (by, side) = (Side::Client, Side::Client);
    assert_eq!(world.session.phase().cause(), Some(Cause::Vanished { by }));
    assert!(world.events.contains(&Event::NoPong { side }));
}

#[test]
fn a_limit_per_second() {
    let mut settings = settings();
    settings.limits.rates[0].messages = 10;
    let messages = frame(Side::Client, 0x81, b"x").repeat(15);
    let mut world = World::new(settings.clone(), 9);
    world.send(Side::Client, &messages);
    world.run_until_idle();
    assert_eq!(world.close_to(Side::Client), Some(1008));
    assert_eq!(
        world.directions[0].forwarded.len(),
        messages.len() / 15 * 10
    );

    settings.limits.beyond = Beyond::Delay;
    let mut world = World::new(settings, 9);
    world.send(Side::Client, &messages);
    world.run_until_idle();
    assert_eq!(
        world.directions[0].forwarded.len(),
        messages.len() / 15 * 10
    );
    let slowed = |event: &Event| matches!(event, Event::SlowedDown { violation, .. } if violation.kind == Kind::MessageRate);
    assert_eq!(world.events.iter().filter(|event| slowed(event)).count(), 1);
    world.advance(Duration::from_millis(600));
    assert_eq!(world.directions[0].forwarded, messages);
}

/// How long no message had passed when the end began: Pings are none, and what comes after it does not count.
#[test]
fn silence() {
    let mut world = World::new(settings(), 10);
    world.advance(Duration::from_secs(30));
    world.send(Side::Server, &frame(Side::Server, 0x81, b"news"));
    world.run_until_idle();
    for _ in 0..2 {
        world.advance(Duration::from_secs(10));
        world.send(Side::Client, &frame(Side::Client, 0x89, b"ping"));
        world.run_until_idle();
    }
    happens(&mut world, ServerRestarts);
    world.send(Side::Client, &frame(Side::Client, 0x81, b"late"));
    world.run_until_idle();
    world.advance(Duration::from_secs(6));
    let outcome = world.session.outcome().expect("it is over");
    assert_eq!(outcome.silent, Duration::from_secs(20));
    let began = outcome.end_began.expect("it began");
    assert_eq!((world.now - began).as_secs(), 6);
}
