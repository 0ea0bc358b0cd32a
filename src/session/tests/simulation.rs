//! Whole connections, drawn from a seed: what both peers send, where it is cut, who reads slowly, vanishes, or answers.
//!
//! `WSGATE_SEED=7 cargo test session::tests::simulation` replays one world.

use super::super::*;
use super::world::{World, close_frame, frame};
use crate::drain;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// What a peer means to send, in frames; some of it breaks a rule.
fn script(rng: &mut StdRng, from: Side) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for _ in 0..rng.gen_range(0..12) {
        let text = "Grüße, 世界 ".repeat(rng.gen_range(0..40));
        let next = match rng.gen_range(0..20) {
            0..=6 => frame(from, 0x81, text.as_bytes()),
            7..=9 => frame(from, 0x82, &vec![7; rng.gen_range(0..3000)]),
            10..=11 => {
                let (start, end) = text.as_bytes().split_at(text.len() / 2);
                frames.push(frame(from, 0x01, start));
                if rng.gen_bool(0.5) {
                    frames.push(frame(from, 0x89, b"between"));
                }
                frame(from, 0x80, end)
            }
            12..=13 => frame(from, 0x89, b"ping"),
            14 => frame(from, 0x8a, b"pong"),
            15 => frame(from, 0x81, b"caf\xc3\x28"),
            16 => frame(from, 0xc1, b"reserved"),
            17 => frame(from, 0x82, &[0; 5000]),
            18 => frame(from, 0x80, b"no start"),
            _ => close_frame(from, *[1000, 1001, 1012, 4321].choose(rng).expect("some")),
        };
        frames.push(next);
    }
    frames
}

fn settings(rng: &mut StdRng) -> Settings {
    let mut settings = Settings::default();
    settings.rules.max_frame_size = 4000;
    settings.rules.text_buffer = *[0, 100, 64 << 10].choose(rng).expect("some");
    if rng.gen_bool(0.1) {
        settings.rules.mode = crate::inspect::Mode::Observe;
    }
    if rng.gen_bool(0.3) {
        settings.liveness = Liveness {
            ping_interval: [Duration::from_secs(3), Duration::from_secs(5)],
            pong_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(20),
        };
    }
    if rng.gen_bool(0.3) {
        settings.limits.rates[rng.gen_range(0..2)] = Rates {
            messages: rng.gen_range(0..5),
            bytes: *[0, 500, 5000].choose(rng).expect("some"),
            control: rng.gen_range(0..3),
            inflated: 0,
        };
        if rng.gen_bool(0.5) {
            settings.limits.beyond = Beyond::Delay;
        }
    }
    settings
}

/// What has to be true at every step.
fn check(world: &World, seed: u64, observing: bool) {
    for from in SIDES {
        let direction = &world.directions[from as usize];
        // Pongs that answer wsgate's Pings are taken out: what is left is in order.
        let mut sent = direction.sent.iter();
        let in_order = direction
            .forwarded
            .iter()
            .all(|byte| sent.any(|other| other == byte));
        assert!(in_order, "seed {seed}: what {from:?} sent is changed");
        let watches = world.session.settings.liveness != Liveness::default();
        let is_prefix = direction.sent.starts_with(&direction.forwarded);
        assert!(watches || is_prefix, "seed {seed}: {from:?} is no prefix");

        let (frames, unfinished) = world.frames_to(from.other());
        let closes = frames.iter().filter(|(first, _)| first & 0x0f == 8).count();
        assert!(closes <= 1, "seed {seed}: two Closes");
        if closes == 1 && !observing {
            let is_last = frames.last().is_some_and(|(first, _)| first & 0x0f == 8);
            assert!(
                is_last && unfinished == 0,
                "seed {seed}: something follows a Close"
            );
        }
        for (first, payload) in frames {
            if first == 0x81 && !observing {
                assert!(
                    str::from_utf8(&payload).is_ok(),
                    "seed {seed}: bad text passed"
                );
            }
        }
    }
}

/// One world from its beginning to its end: all that both peers got.
fn run(seed: u64) -> [Vec<u8>; 2] {
    let rng = &mut StdRng::seed_from_u64(seed);
    let settings = settings(rng);
    let observing = settings.rules.mode == crate::inspect::Mode::Observe;
    let mut world = World::new(settings, seed);
    let mut scripts = SIDES.map(|side| script(rng, side).concat());
    let answers = SIDES.map(|_| rng.gen_bool(0.8));
    let mut answered = [false; 2];
    for side in SIDES {
        if rng.gen_bool(0.3) {
            world.appetite[side as usize] = rng.gen_range(0..2000);
        }
    }
    for _ in 0..rng.gen_range(20..200) {
        let side = SIDES[rng.gen_range(0..2)];
        match rng.gen_range(0..100) {
            0..=59 => {
                let script = &mut scripts[side as usize];
                let count = script.len().min(rng.gen_range(0..300));
                if !world.directions[side as usize].ended {
                    let bytes: Vec<u8> = script.drain(..count).collect();
                    world.send(side, &bytes);
                }
            }
            60..=79 => {
                let more = rng.gen_range(0..3000);
                let appetite = &mut world.appetite[side as usize];
                *appetite = appetite.saturating_add(more);
            }
            80..=91 => world.advance(Duration::from_millis(rng.gen_range(1..4000))),
            92..=93 => world.command(Command::Drain(drain::Cause::Operator)),
            94 => world.command(Command::Hurry),
            95 => world.command(Command::Shed(side)),
            96 => world.broken[side as usize] = true,
            97 => world.end(side),
            _ => {}
        }
        // A peer that has sent its script answers the Close that it gets.
        for side in SIDES {
            let is_asked = world.close_to(side).is_some() && scripts[side as usize].is_empty();
            if is_asked && answers[side as usize] && !answered[side as usize] {
                answered[side as usize] = true;
                world.send(side, &close_frame(side, 1000));
            }
        }
        world.run_until_idle();
        check(&world, seed, observing);
    }
    // Whatever was left open: once a drain is asked for, the end comes within the sum of all time-outs.
    world.command(Command::Drain(drain::Cause::Shutdown));
    world.advance(Duration::from_secs(120));
    check(&world, seed, observing);
    assert!(
        world.session.outcome().is_some(),
        "seed {seed} never ends: {:?}",
        world.session
    );
    assert_eq!(
        world.session.poll_timeout(),
        None,
        "seed {seed}: a timer is left"
    );
    world.directions.map(|direction| direction.output)
}

#[test]
fn worlds() {
    let one = std::env::var("WSGATE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..1000,
    };
    for seed in seeds {
        assert!(run(seed) == run(seed), "seed {seed} does not replay");
    }
}
