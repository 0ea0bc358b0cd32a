use super::*;

const PLACE: Place = Place {
    upstream: 0,
    server: 0,
    generation: 0,
};

const UPSTREAM: Selection = Selection::Upstream { upstream: 0 };

struct Scene {
    conductor: Conductor<u32>,
    start: Instant,
}

impl Scene {
    fn new(members: u32) -> (Self, Vec<MemberId>) {
        let mut conductor = Conductor::new(1);
        let ids = (0..members).map(|n| conductor.enroll(PLACE, n)).collect();
        let start = Instant::now();
        (Scene { conductor, start }, ids)
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    fn begin(&mut self, selection: Selection, terms: Terms, seconds: f64) -> DrainId {
        let now = self.at(seconds);
        self.conductor.start(selection, terms, Cause::Deploy, now)
    }

    fn poll(&mut self, seconds: f64) -> Vec<MemberId> {
        let told = self.conductor.poll(self.at(seconds));
        told.into_iter().map(|(id, ..)| id).collect()
    }

    /// Polls as it asks to be, and lets all who are told go; when each was told, in seconds.
    fn run(&mut self) -> Vec<f64> {
        let mut times = Vec::new();
        while let Some(wake) = self.conductor.next_wake() {
            let wake = wake.max(self.start);
            for (id, ..) in self.conductor.poll(wake) {
                times.push((wake - self.start).as_secs_f64());
                self.conductor.leave(id, wake);
            }
        }
        times
    }

    fn progress(&self, drain: DrainId, seconds: f64) -> Progress {
        self.conductor.progress(drain, self.at(seconds)).unwrap()
    }
}

fn terms(pace: Pace) -> Terms {
    Terms {
        pace,
        deadline: Duration::from_secs(60),
        max_closing: usize::MAX,
        order: Order::OldestFirst,
    }
}

fn over(seconds: u64) -> Terms {
    terms(Pace::Over(Duration::from_secs(seconds)))
}

#[test]
fn over_is_even_with_jitter() {
    let (mut scene, _) = Scene::new(100);
    let drain = scene.begin(UPSTREAM, over(10), 0.0);
    let times = scene.run();
    assert_eq!(times.len(), 100);
    for (slot, time) in times.iter().enumerate() {
        let slot = slot as f64 * 0.1;
        assert!((slot..slot + 0.1001).contains(time), "{time} in {slot}");
    }
    let progress = scene.progress(drain, 10.0);
    assert_eq!((progress.state, progress.closed), (State::Done, 100));
    assert!(!progress.raised);
}

#[test]
fn a_rate_is_kept_or_raised() {
    for (rate, lasts, raised) in [
        (20.0, 5.0, false),
        (1.0, 60.0, true),
        (0.0, 60.0, true),
        (f64::NAN, 60.0, true),
    ] {
        let (mut scene, _) = Scene::new(100);
        let forecast = scene.conductor.forecast(UPSTREAM, terms(Pace::Rate(rate)));
        assert_eq!((forecast.members, forecast.raised), (100, raised));
        assert!((forecast.lasts.as_secs_f64() - lasts).abs() < 0.001);
        let drain = scene.begin(UPSTREAM, terms(Pace::Rate(rate)), 0.0);
        let progress = scene.progress(drain, 0.0);
        assert_eq!(progress.raised, raised, "said before it begins");
        assert!((progress.ends - scene.at(lasts)).as_secs_f64() < 0.001);
        let last = *scene.run().last().unwrap();
        assert!(
            (lasts - lasts / 100.0 - 0.001..=lasts).contains(&last),
            "{last}"
        );
    }
}

#[test]
fn nothing_to_do_is_done_at_once() {
    let (mut scene, ids) = Scene::new(1);
    let other = Selection::Upstream { upstream: 9 };
    for selection in [other, Selection::Member(MemberId(99))] {
        let drain = scene.begin(selection, terms(Pace::Adaptive), 0.0);
        let progress = scene.progress(drain, 0.0);
        assert_eq!((progress.state, progress.total), (State::Done, 0));
    }
    assert_eq!(scene.conductor.next_wake(), None);
    assert_eq!(scene.conductor.forecast(other, over(9)).members, 0);
    // And a time of nothing is everybody at once.
    scene.begin(UPSTREAM, over(0), 0.0);
    assert_eq!(scene.poll(0.0), ids);
}

#[test]
fn max_closing_bounds_the_closings_until_the_deadline_calls() {
    let (mut scene, ids) = Scene::new(100);
    let held = Terms {
        max_closing: 3,
        ..terms(Pace::Rate(1000.0))
    };
    scene.begin(UPSTREAM, held, 0.0);
    assert_eq!(scene.poll(0.2), ids[..3]);
    assert_eq!(scene.poll(1.0), []);
    scene.conductor.leave(ids[0], scene.at(1.1));
    assert!(scene.conductor.next_wake().unwrap() <= scene.at(1.2));
    assert_eq!(scene.poll(1.2), ids[3..4]);
    // One goes by itself: it was not under way and frees nothing.
    scene.conductor.leave(ids[50], scene.at(1.3));
    assert_eq!(scene.poll(1.4), []);
    // None of the three ever goes. The rest is spread from the first third on, and not left to the deadline.
    let mut at = 20.0;
    let mut most = 0;
    let mut all = 4;
    while at <= 60.0 {
        let told = scene.poll(at).len();
        most = most.max(told);
        all += told;
        at += 0.1;
    }
    all += scene.poll(60.0).len();
    assert_eq!((all, most), (99, 1));
}

#[test]
fn who_is_new_stays() {
    for selection in [
        UPSTREAM,
        Selection::Server {
            upstream: 0,
            server: 0,
        },
        Selection::Everything,
    ] {
        let (mut scene, ids) = Scene::new(10);
        scene.begin(selection, over(10), 0.0);
        let new = scene.conductor.enroll(PLACE, 77);
        assert_eq!(scene.poll(10.0), ids);
        assert!(!scene.poll(100.0).contains(&new));
    }
}

#[test]
fn selections_select() {
    let mut conductor = Conductor::new(1);
    for upstream in 0..3 {
        for server in 0..3 {
            for generation in 0..3 {
                conductor.enroll(
                    Place {
                        upstream,
                        server,
                        generation,
                    },
                    (),
                );
            }
        }
    }
    let one = Selection::Member(MemberId(4));
    for (selection, many) in [
        (Selection::Everything, 27),
        (Selection::Upstream { upstream: 1 }, 9),
        (
            Selection::Server {
                upstream: 1,
                server: 2,
            },
            3,
        ),
        (
            Selection::OlderThan {
                upstream: 2,
                generation: 2,
            },
            6,
        ),
        (
            Selection::OlderThan {
                upstream: 2,
                generation: 0,
            },
            0,
        ),
        (one, 1),
    ] {
        assert_eq!(conductor.count(selection), many);
        let now = Instant::now();
        let drain = conductor.start(selection, over(60), Cause::Reload, now);
        assert_eq!(conductor.progress(drain, now).unwrap().total, many);
    }
    assert_eq!(conductor.places().count(), 27);
    assert_eq!((conductor.len(), conductor.is_empty()), (27, false));
}

#[test]
fn the_order_is_that_of_age_or_none() {
    let (mut scene, ids) = Scene::new(50);
    let random = Terms {
        order: Order::Random,
        ..over(10)
    };
    scene.begin(UPSTREAM, random, 0.0);
    let mut told = scene.poll(10.0);
    assert_ne!(told, ids);
    told.sort_unstable();
    assert_eq!(told, ids);
}

#[test]
fn drains_that_overlap_close_nobody_twice() {
    let (mut scene, ids) = Scene::new(10);
    let slow = scene.begin(Selection::Everything, over(60), 0.0);
    let fast = scene.begin(UPSTREAM, over(1), 0.0);
    assert_eq!(scene.poll(1.0), ids);
    assert_eq!(scene.poll(100.0), []);
    for id in ids {
        scene.conductor.leave(id, scene.at(101.0));
    }
    for drain in [slow, fast] {
        let progress = scene.progress(drain, 101.0);
        let Progress {
            state,
            total,
            closed,
            left,
            ..
        } = progress;
        assert_eq!((state, total, closed, left), (State::Done, 10, 10, 0));
    }
}

#[test]
fn a_repeated_drain_is_joined_and_the_earlier_deadline_wins() {
    let (mut scene, ids) = Scene::new(10);
    let first = scene.begin(UPSTREAM, over(60), 0.0);
    assert_eq!(scene.begin(UPSTREAM, over(90), 1.0), first);
    assert_eq!(scene.progress(first, 1.0).deadline, scene.at(60.0));
    assert_eq!(scene.begin(UPSTREAM, over(4), 1.0), first);
    let progress = scene.progress(first, 1.0);
    assert_eq!((progress.deadline, progress.raised), (scene.at(5.0), true));
    assert_eq!(scene.poll(5.0).len(), 10);
    // With nobody waiting there is nothing to join, and who came since is closed; those under way are waited for.
    scene.conductor.enroll(PLACE, 11);
    let second = scene.begin(UPSTREAM, over(4), 6.0);
    assert_ne!(second, first);
    let progress = scene.progress(second, 6.0);
    assert_eq!(
        (progress.total, progress.waiting, progress.closing),
        (11, 1, 10)
    );
    assert_eq!(scene.poll(10.0).len(), 1);
    assert_eq!(ids.len(), 10);
}

#[test]
fn the_rest_of_a_cancelled_drain_stays() {
    let (mut scene, ids) = Scene::new(10);
    let drain = scene.begin(UPSTREAM, over(10), 0.0);
    let other = scene.begin(Selection::Member(ids[9]), over(60), 0.0);
    let told = scene.poll(0.1 + 1.0);
    assert!(scene.conductor.cancel(drain, scene.at(2.0)));
    assert!(!scene.conductor.cancel(drain, scene.at(2.0)));
    assert!(
        !scene
            .conductor
            .cancel(DrainId::from_number(99), scene.at(2.0))
    );
    assert_eq!(
        scene.poll(59.0).len() + scene.poll(60.0).len(),
        1,
        "whom another drain wants"
    );
    for id in &told {
        scene.conductor.leave(*id, scene.at(61.0));
    }
    scene.conductor.leave(ids[5], scene.at(61.0));
    let Progress {
        state,
        waiting,
        closing,
        closed,
        ..
    } = scene.progress(drain, 61.0);
    assert_eq!(
        (state, waiting, closing, closed),
        (State::Cancelled, 10 - told.len(), 0, told.len())
    );
    assert_eq!(scene.progress(other, 61.0).closing, 1);
}

#[test]
fn who_goes_alone_counts() {
    let (mut scene, ids) = Scene::new(10);
    let drain = scene.begin(UPSTREAM, over(10), 0.0);
    for id in &ids[..5] {
        scene.conductor.leave(*id, scene.at(0.0));
        scene.conductor.leave(*id, scene.at(0.0));
    }
    let Progress {
        waiting,
        closed,
        left,
        ..
    } = scene.progress(drain, 0.0);
    assert_eq!((waiting, closed, left), (5, 5, 5));
    // They come back like those who were told: the others wait for their slots.
    assert_eq!(scene.poll(4.9), []);
    assert_eq!(scene.poll(10.0), ids[5..]);
}

#[test]
fn a_late_poll_does_not_make_up_for_what_it_missed() {
    let (mut scene, _) = Scene::new(1000);
    let drain = scene.begin(UPSTREAM, over(60), 0.0);
    assert!(scene.poll(30.0).len() <= 1);
    let times = scene.run();
    assert!(*times.last().unwrap() <= 60.0);
    let in_a_second = times
        .iter()
        .filter(|time| (30.0..31.0).contains(*time))
        .count();
    assert!((30..37).contains(&in_a_second), "{in_a_second}");
    assert!(scene.progress(drain, 60.0).raised);
    let (mut scene, _) = Scene::new(1000);
    scene.begin(UPSTREAM, terms(Pace::Adaptive), 0.0);
    assert_eq!(scene.poll(1e6).len(), 1000);
}

#[test]
fn members_of_age_share_a_drain() {
    let (mut scene, ids) = Scene::new(100);
    let slow = terms(Pace::Rate(10.0));
    let first = scene.begin(Selection::Member(ids[0]), slow, 0.0);
    let mut told = 0;
    for (n, id) in ids.iter().enumerate() {
        // More often than the rate: nobody is put off by those who follow.
        let at = n as f64 * 0.05;
        assert_eq!(scene.begin(Selection::Member(*id), slow, at), first);
        assert_eq!(scene.begin(Selection::Member(*id), slow, at), first);
        told += scene.poll(at).len();
    }
    assert!((48..=51).contains(&told), "{told}");
    assert_eq!(scene.progress(first, 5.0).total, 100);
    let late = scene.conductor.enroll(PLACE, 1);
    assert_ne!(scene.begin(Selection::Member(late), slow, 31.0), first);
}

/// Without signs of strain the rate is the same from the first to the last second: that of 0.8 x 200 upgrades per second where
/// nothing is known, of 0.8 of the known rate, or of 0.8 of the deadline.
#[test]
fn the_adaptive_pace_is_even_where_nothing_strains_the_servers() {
    for (members, known, lasts) in [
        (330, None, 2.0625),
        (4000, None, 25.0),
        (20_000, None, 48.0),
        (4000, Some(1000.0), 5.0),
    ] {
        let (mut scene, _) = Scene::new(members);
        if let Some(known) = known {
            scene.conductor.set_known_rate(0, known, scene.start);
        }
        let drain = scene.begin(UPSTREAM, terms(Pace::Adaptive), 0.0);
        let forecast = scene.progress(drain, 0.0).ends - scene.start;
        assert!((forecast.as_secs_f64() - lasts).abs() < 0.1, "{forecast:?}");
        let times = scene.run();
        assert_eq!(times.len(), members as usize);
        let last = *times.last().unwrap();
        assert!((last - lasts).abs() < 0.1, "{last} of {lasts}");
        let average = f64::from(members) / lasts;
        for second in 0..lasts as u32 {
            let within = |at: &&f64| (**at as u32) == second;
            let here = times.iter().filter(within).count() as f64;
            assert!((here / average - 1.0).abs() < 0.05, "{here} at {second}");
        }
        assert!(!scene.progress(drain, last).raised);
    }
}

#[test]
fn upstreams_are_listened_to_one_by_one() {
    let mut conductor = Conductor::new(1);
    for n in 0..400 {
        let place = Place {
            upstream: n % 2,
            ..PLACE
        };
        conductor.enroll(place, n % 2);
    }
    let start = Instant::now();
    conductor.start(
        Selection::Everything,
        terms(Pace::Adaptive),
        Cause::Operator,
        start,
    );
    let mut told = [0; 2];
    for step in 0..900 {
        let now = start + Duration::from_millis(step * 10);
        for (id, upstream, _) in conductor.poll(now) {
            told[upstream as usize] += 1;
            conductor.leave(id, now);
            // The second one fails whatever comes.
            let quick = Duration::from_millis(5);
            conductor.handle_upgrade(upstream, now, quick, upstream == 0);
        }
    }
    assert!(told[0] > 80 && told[1] < 20, "{told:?}");
}

/// The number of members that are handed out between two moments, in seconds.
fn drained_between(scene: &mut Scene, from: f64, to: f64) -> usize {
    let steps = ((to - from) * 100.0).round() as u32;
    let moments = (0..steps).map(|step| from + f64::from(step) / 100.0);
    moments.map(|moment| scene.poll(moment).len()).sum()
}

#[test]
fn signs_of_strain_slow_the_adaptive_pace_down() {
    let (mut scene, _) = Scene::new(2000);
    let quick = Duration::from_millis(5);
    scene.conductor.handle_upgrade(0, scene.start, quick, true);
    let drain = scene.begin(UPSTREAM, terms(Pace::Adaptive), 60.0);
    let before = drained_between(&mut scene, 60.0, 61.0);
    assert!((158..=162).contains(&before), "{before}");
    // One fails: silence, and a window of 0.7 of those who are away, which all of them fill.
    let failed = scene.at(61.0);
    scene.conductor.handle_upgrade(0, failed, quick, false);
    assert_eq!(drained_between(&mut scene, 61.0, 63.0), 0);
    assert_eq!(scene.progress(drain, 63.0).failed, 1);
    // 100 come back: the window has room for about 50 more.
    for _ in 0..100 {
        let back = scene.at(63.0);
        scene.conductor.handle_upgrade(0, back, quick, true);
    }
    assert_eq!(scene.progress(drain, 63.0).reconnected, 100);
    let after = drained_between(&mut scene, 63.0, 66.0);
    assert!((45..=70).contains(&after), "{after}");
    // Handshakes take long: silence for as long as they do.
    for tenth in 0..10 {
        let now = scene.at(66.0 + f64::from(tenth) / 10.0);
        let slow = Duration::from_secs(1);
        scene.conductor.handle_upgrade(0, now, slow, true);
        if tenth > 0 {
            assert_eq!(scene.conductor.poll(now).len(), 0);
        }
    }
}

/// How many of 50 upgrades within 5 s of a drain are taken for somebody who is back. Before it there were 10 a second as
/// well, and as many connections ended where they come and `go`.
fn taken_for_back(go: bool) -> usize {
    let (mut scene, _) = Scene::new(1000);
    let quick = Duration::from_millis(5);
    for tenth in 0..600 {
        let now = scene.at(f64::from(tenth) / 10.0);
        scene.conductor.handle_upgrade(0, now, quick, true);
        if go {
            let visitor = scene.conductor.enroll(PLACE, 0);
            scene.conductor.leave(visitor, now);
        }
    }
    let drain = scene.begin(UPSTREAM, terms(Pace::Adaptive), 60.0);
    for tenth in 600..650 {
        let now = f64::from(tenth) / 10.0;
        scene.poll(now);
        scene
            .conductor
            .handle_upgrade(0, scene.at(now), quick, true);
    }
    scene.progress(drain, 65.0).reconnected
}

#[test]
fn upgrades_that_come_anyway_are_nobody_who_is_back() {
    let back = taken_for_back(true);
    assert!(back <= 6, "{back} of 50");
}

/// As after the drain of another server: those who came were a crowd, not the usual.
#[test]
fn a_crowd_that_has_just_come_does_not_go_on_coming() {
    let back = taken_for_back(false);
    assert!(back >= 40, "{back} of 50");
}

#[test]
fn the_past_is_remembered_for_a_while() {
    let (mut scene, _) = Scene::new(0);
    let drains: Vec<_> = (0..100)
        .map(|_| scene.begin(UPSTREAM, over(1), 0.0))
        .collect();
    assert_eq!(scene.conductor.drains().collect::<Vec<_>>(), drains[68..]);
    assert!(scene.conductor.progress(drains[0], scene.start).is_none());
}

#[test]
fn causes_have_names_of_their_own() {
    let names: std::collections::HashSet<_> =
        Cause::ALL.iter().map(|cause| cause.label()).collect();
    assert_eq!(names.len(), Cause::ALL.len());
}
