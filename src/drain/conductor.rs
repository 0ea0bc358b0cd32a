//! The face of the room: every drain and every member, and what the time has come for.

use super::plan::{Lane, Plan};
use super::pulse;
use super::pulse::{Heard, Pulse};
use super::roster::Roster;
use super::{Cause, DrainId, MemberId, Order, Pace, Place, Progress, Selection, State, Terms};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Knows every live connection and says whom to close, and when. `H` is the handle by which a connection is told.
///
/// After any call [`next_wake`](Self::next_wake) may name an earlier moment than before; then it is time for
/// [`poll`](Self::poll), and what that returns has to be closed. Polls may be late or needless.
///
/// A start costs the number of its members, all other calls a logarithm of it, times the number of running drains, which
/// is small: the same selection twice is one drain. `next_wake` and `poll` look at every upstream of the running drains.
///
/// ```
/// use std::time::{Duration, Instant};
/// use wsgate::drain::{Cause, Conductor, Order, Pace, Place, Selection, State, Terms};
///
/// let mut now = Instant::now();
/// let mut conductor = Conductor::new(7);
/// for client in 0..100 {
///     conductor.enroll(Place { upstream: 0, server: 0, generation: 0 }, client);
/// }
/// let pace = Pace::Over(Duration::from_secs(10));
/// let terms = Terms { pace, deadline: Duration::from_secs(60), max_closing: 1000, order: Order::Random };
/// let drain = conductor.start(Selection::Everything, terms, Cause::Deploy, now);
/// while let Some(wake) = conductor.next_wake() {
///     now = now.max(wake);
///     for (member, _handle, _cause) in conductor.poll(now) {
///         conductor.leave(member, now); // Later, when the connection is gone.
///     }
/// }
/// assert_eq!(conductor.progress(drain, now).unwrap().state, State::Done);
/// ```
#[derive(Debug)]
pub struct Conductor<H> {
    roster: Roster<H>,
    /// The running ones and those of `ended`.
    drains: BTreeMap<DrainId, Plan>,
    /// In the order of their start.
    running: Vec<DrainId>,
    /// In the order of their end.
    ended: VecDeque<DrainId>,
    pub(super) pulses: HashMap<u32, Pulse>,
    /// Members with a maximal age, by the moment at which they reach it.
    ages: BTreeMap<(Instant, MemberId), Terms>,
    rng: StdRng,
    next: u64,
}

impl<H: Clone> Conductor<H> {
    /// Without connections. The seed decides every jitter and shuffle.
    pub fn new(seed: u64) -> Self {
        Conductor {
            roster: Roster::new(),
            drains: BTreeMap::new(),
            running: Vec::new(),
            ended: VecDeque::new(),
            pulses: HashMap::new(),
            ages: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            next: 1,
        }
    }

    /// The servers of an upstream that take connections are known to take this number of upgrades per second. Drains that start
    /// from now on use it.
    pub fn set_known_rate(&mut self, upstream: u32, per_second: f64, now: Instant) {
        let pulse = self.pulses.entry(upstream);
        pulse.or_insert_with(|| Pulse::new(now)).known_rate = per_second;
    }

    /// A connection begins. It is part of drains that start from now on, and of no other.
    pub fn enroll(&mut self, place: Place, handle: H) -> MemberId {
        self.roster.insert(place, handle)
    }

    /// A connection reaches its maximal age at this time, and is drained then: on these terms, together with others of its
    /// upstream that reach theirs.
    pub fn retire_at(&mut self, id: MemberId, at: Instant, terms: Terms) {
        if let Some(member) = self.roster.get_mut(id)
            && member.retires.is_none()
        {
            member.retires = Some(at);
            self.ages.insert((at, id), terms);
        }
    }

    /// A connection is gone, told or not. To say it twice does no harm.
    pub fn leave(&mut self, id: MemberId, now: Instant) {
        self.remove(id, now, false);
    }

    /// As [`leave`](Self::leave), of one whose client was told to reconnect for a reason that is no drain's, such as a
    /// crash: it will be back.
    pub fn leave_for_now(&mut self, id: MemberId, now: Instant) {
        self.remove(id, now, true);
    }

    fn remove(&mut self, id: MemberId, now: Instant, returns: bool) {
        let Some(member) = self.roster.remove(id) else {
            return;
        };
        if let Some(at) = member.retires {
            self.ages.remove(&(at, id));
        }
        if !member.told {
            let pulse = self
                .pulses
                .entry(member.place.upstream)
                .or_insert_with(|| Pulse::new(now));
            if returns {
                pulse.handle_away(now);
            } else {
                pulse.handle_left(now);
            }
        }
        for drain in member.drains.as_slice().iter().copied() {
            let Some(plan) = self.drains.get_mut(&drain) else {
                continue;
            };
            if member.told {
                plan.closing -= 1;
                plan.closed += 1;
            } else if plan.is_running() {
                plan.closed += 1;
                plan.left += 1;
                self.handle_member_done(drain, member.place.upstream);
            }
            self.finish(drain, now);
        }
    }

    /// Starts a drain of those who are connected now.
    ///
    /// While members of one of the same selection wait, that one is joined: its terms stay, but for an earlier deadline. Members
    /// that are being closed already are counted, so that the drain is done when all of its selection are gone.
    pub fn start(
        &mut self,
        selection: Selection,
        terms: Terms,
        cause: Cause,
        now: Instant,
    ) -> DrainId {
        let ids = self.roster.select(selection);
        self.start_chosen(ids, selection, terms, cause, now)
    }

    /// Starts a drain of these members, which were chosen one by one, under this selection. While one of the same selection goes
    /// on, no member is added to it.
    pub fn start_chosen(
        &mut self,
        ids: Vec<MemberId>,
        selection: Selection,
        terms: Terms,
        cause: Cause,
        now: Instant,
    ) -> DrainId {
        let joined = self.running.iter().copied().find(|drain| {
            self.drains
                .get(drain)
                .is_some_and(|plan| plan.waiting() > 0 && self.is_same(plan, selection, cause, now))
        });
        if let Some(drain) = joined {
            self.join(drain, selection, terms, now);
            return drain;
        }
        let drain = DrainId(self.next);
        self.next += 1;
        self.drains
            .insert(drain, Plan::new(selection, cause, terms, now));
        self.running.push(drain);
        self.add(drain, ids, now);
        self.finish(drain, now);
        drain
    }

    /// Ends a drain; those who were not told yet stay, unless another one wants them. Whether it was running.
    pub fn cancel(&mut self, id: DrainId, now: Instant) -> bool {
        let Some(plan) = self.drains.get_mut(&id).filter(|plan| plan.is_running()) else {
            return false;
        };
        for lane in &mut plan.lanes {
            lane.queue = VecDeque::new();
            if lane.waiting() > 0
                && let Some(pulse) = self.pulses.get_mut(&lane.upstream)
            {
                pulse.handle_end();
            }
        }
        plan.end(State::Cancelled, now);
        self.archive(id);
        true
    }

    /// An upgrade ended, for whomever and to whichever server of the upstream. `took` is the time of its handshake. If it
    /// is taken for the return of somebody who was told to reconnect, how long after that it came.
    pub fn handle_upgrade(
        &mut self,
        upstream: u32,
        now: Instant,
        took: Duration,
        ok: bool,
    ) -> Option<Duration> {
        let pulse = self
            .pulses
            .entry(upstream)
            .or_insert_with(|| Pulse::new(now));
        match pulse.handle_upgrade(now, took, ok) {
            Heard::Background => None,
            Heard::Back { drain, after } => {
                if let Some(plan) = drain.and_then(|drain| self.drains.get_mut(&drain)) {
                    plan.reconnected += 1;
                }
                Some(after)
            }
            Heard::Failed(drain) => {
                if let Some(plan) = drain.and_then(|drain| self.drains.get_mut(&drain)) {
                    plan.failed += 1;
                }
                None
            }
        }
    }

    /// The members to close now, each with the cause of the drain that wants it first.
    pub fn poll(&mut self, now: Instant) -> Vec<(MemberId, H, Cause)> {
        while let Some(entry) = self.ages.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, id), terms) = entry.remove_entry();
            self.start(Selection::Member(id), terms, Cause::MaxAge, now);
        }
        let mut told = Vec::new();
        for at in 0..self.running.len() {
            let id = self.running[at];
            let lanes = self.drains.get(&id).map_or(0, |plan| plan.lanes.len());
            for lane in 0..lanes {
                self.prepare(id, lane, now);
                while let Some(member) = self.take(id, lane, now) {
                    told.extend(self.tell(member, id, now));
                }
            }
        }
        told
    }

    /// When to poll next; `None` where nobody waits.
    pub fn next_wake(&self) -> Option<Instant> {
        let by_drains = self
            .running
            .iter()
            .filter_map(|drain| self.drains.get(drain))
            .flat_map(|plan| plan.lanes.iter().map(move |lane| (plan, lane)))
            .filter_map(|(plan, lane)| plan.due(lane, self.pulses.get(&lane.upstream)?))
            .min();
        let by_age = self.ages.keys().next().map(|(at, _)| *at);
        [by_drains, by_age].into_iter().flatten().min()
    }

    /// Whether any drain has members that wait, or that were told and are not gone yet.
    pub fn is_draining(&self) -> bool {
        !self.running.is_empty()
    }

    /// By which every connection is told.
    pub fn handles(&self) -> impl Iterator<Item = &H> {
        self.roster.handles()
    }

    /// The members with identities above this one, oldest first.
    pub fn members(&self, after: Option<MemberId>) -> Vec<(MemberId, Place, H)>
    where
        H: Clone,
    {
        self.roster.after(after)
    }

    /// The handle of a member.
    pub fn handle(&self, id: MemberId) -> Option<&H> {
        self.roster.get(id).map(|member| &member.handle)
    }

    /// The figures of a drain, for as long as it is remembered.
    pub fn progress(&self, id: DrainId, now: Instant) -> Option<Progress> {
        self.drains.get(&id).map(|plan| plan.progress(now))
    }

    /// Running drains and the last 32 that ended, oldest first.
    pub fn drains(&self) -> impl Iterator<Item = DrainId> {
        self.drains.keys().copied()
    }

    /// Clients of an upstream that were told to reconnect and have neither come back nor been given up.
    pub fn away(&mut self, upstream: u32, now: Instant) -> usize {
        let pulse = self.pulses.get_mut(&upstream);
        pulse.map_or(0, |pulse| pulse.away(now))
    }

    /// How many connections there are of a selection. Costs the number of its places.
    pub fn count(&self, selection: Selection) -> usize {
        self.roster.count(selection)
    }

    /// How many connections each place has, in the order of upstream, server and generation.
    pub fn places(&self) -> impl Iterator<Item = (Place, usize)> {
        self.roster.places()
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.roster.len()
    }

    /// Whether nobody is connected: the end of a shutdown.
    pub fn is_empty(&self) -> bool {
        self.roster.len() == 0
    }

    fn is_same(&self, plan: &Plan, selection: Selection, cause: Cause, now: Instant) -> bool {
        match (plan.selection, selection) {
            (Selection::Member(_), Selection::Member(id)) => {
                let upstream = self.roster.get(id).map(|member| member.place.upstream);
                plan.cause == cause
                    && plan.lanes.first().map(|lane| lane.upstream) == upstream
                    && now.saturating_duration_since(plan.started)
                        < (plan.deadline - plan.started) / 2
            }
            (theirs, ours) => theirs == ours,
        }
    }

    fn join(&mut self, drain: DrainId, selection: Selection, terms: Terms, now: Instant) {
        if let Selection::Member(id) = selection {
            let is_part =
                |member: &super::roster::Member<H>| member.drains.as_slice().contains(&drain);
            if !self.roster.get(id).is_none_or(is_part) {
                self.add(drain, vec![id], now);
            }
            return;
        }
        let Some(plan) = self.drains.get_mut(&drain) else {
            return;
        };
        let deadline = now + terms.deadline_in_force();
        if deadline < plan.deadline {
            plan.raised |= matches!(plan.terms.pace, Pace::Over(_)) && plan.waiting() > 0;
            plan.deadline = deadline;
            plan.schedule(now, |upstream| drain_rate(&self.pulses, upstream));
        }
    }

    /// Makes members part of a running drain.
    fn add(&mut self, drain: DrainId, mut ids: Vec<MemberId>, now: Instant) {
        let Some(plan) = self.drains.get_mut(&drain) else {
            return;
        };
        if plan.terms.order == Order::Random {
            ids.shuffle(&mut self.rng);
        }
        let mut fresh: BTreeMap<u32, Vec<MemberId>> = BTreeMap::new();
        for id in ids {
            let Some(member) = self.roster.get_mut(id) else {
                continue;
            };
            plan.total += 1;
            if member.told {
                plan.closing += 1;
            } else {
                // A long life sees many drains that were cancelled.
                member.drains.retain(|drain| self.running.contains(drain));
                fresh.entry(member.place.upstream).or_default().push(id);
            }
            member.drains.push(drain);
        }
        let is_new = plan.lanes.is_empty();
        for (upstream, ids) in fresh {
            let pulse = self
                .pulses
                .entry(upstream)
                .or_insert_with(|| Pulse::new(now));
            let lane = plan.lane_at(upstream, || Lane::new(upstream, now, self.rng.r#gen()));
            if lane.waiting() == 0 {
                pulse.handle_start(now);
            }
            let members = ids.len();
            ids.into_iter().for_each(|id| lane.push(id));
            if !is_new {
                plan.extend(upstream, members);
            }
        }
        if is_new {
            plan.schedule(now, |upstream| drain_rate(&self.pulses, upstream));
        }
    }

    fn prepare(&mut self, id: DrainId, lane: usize, now: Instant) {
        if let Some(plan) = self.drains.get_mut(&id)
            && let Some(pulse) = self.pulses.get_mut(&plan.lanes[lane].upstream)
        {
            pulse.expire(now);
            plan.refresh(lane, now);
        }
    }

    /// The next of a lane, if the time has come for it.
    fn take(&mut self, id: DrainId, lane: usize, now: Instant) -> Option<MemberId> {
        let plan = self.drains.get_mut(&id)?;
        let pulse = self.pulses.get(&plan.lanes[lane].upstream)?;
        if plan.due(&plan.lanes[lane], pulse)? > now {
            return None;
        }
        let queue = &mut plan.lanes[lane].queue;
        loop {
            let member = queue.pop_front()?;
            if self.roster.get(member).is_some_and(|member| !member.told) {
                plan.lanes[lane].jitter = self.rng.r#gen();
                return Some(member);
            }
        }
    }

    /// Marks a member as told, in every drain that counts it.
    fn tell(&mut self, id: MemberId, by: DrainId, now: Instant) -> Option<(MemberId, H, Cause)> {
        let member = self.roster.get_mut(id)?;
        member.told = true;
        // Cancelled drains do not count the member any more.
        member.drains.retain(|drain| self.running.contains(drain));
        let (drains, handle) = (member.drains.as_slice().to_vec(), member.handle.clone());
        let upstream = member.place.upstream;
        for drain in drains {
            if let Some(plan) = self.drains.get_mut(&drain) {
                plan.handle_told(now);
                self.handle_member_done(drain, upstream);
            }
        }
        let plan = self.drains.get(&by)?;
        let pulse = self.pulses.get_mut(&upstream)?;
        pulse.handle_told(now, by, plan.patience(), self.rng.r#gen());
        Some((id, handle, plan.cause))
    }

    /// One member less waits in a drain.
    fn handle_member_done(&mut self, drain: DrainId, upstream: u32) {
        let lane = self
            .drains
            .get_mut(&drain)
            .and_then(|plan| plan.lane_mut(upstream));
        if lane.is_some_and(Lane::handle_settled)
            && let Some(pulse) = self.pulses.get_mut(&upstream)
        {
            pulse.handle_end();
        }
    }

    fn finish(&mut self, drain: DrainId, now: Instant) {
        if self
            .drains
            .get_mut(&drain)
            .is_some_and(|plan| plan.end_if_done(now))
        {
            self.archive(drain);
        }
    }

    fn archive(&mut self, drain: DrainId) {
        self.running.retain(|running| *running != drain);
        self.ended.push_back(drain);
        if self.ended.len() > REMEMBERED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.drains.remove(&oldest);
        }
    }
}

/// The rate of an adaptive drain of an upstream, per second.
pub(super) fn drain_rate(pulses: &HashMap<u32, Pulse>, upstream: u32) -> f64 {
    pulses
        .get(&upstream)
        .map_or(pulse::FIRST_RATE, Pulse::drain_rate)
}

/// Drains that are remembered after their end.
const REMEMBERED: usize = 32;
