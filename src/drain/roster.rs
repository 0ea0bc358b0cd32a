//! The roster: every live connection, its place, and whether it was handed out to be closed.

use super::{DrainId, MemberId, Place, Selection};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

/// One live connection.
#[derive(Debug)]
pub(super) struct Member<H> {
    pub(super) place: Place,
    pub(super) handle: H,
    /// The member was handed out to be closed, and is not gone yet.
    pub(super) told: bool,
    /// Drains that count it.
    pub(super) drains: DrainsOf,
    /// When it reaches its maximal age, where it has one.
    pub(super) retires: Option<Instant>,
}

/// The drains that count a member: most members are part of none, and have the room of a pointer for them.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "a third of the size of a Vec")]
pub(super) struct DrainsOf(Option<Box<Vec<DrainId>>>);

impl DrainsOf {
    pub(super) fn push(&mut self, drain: DrainId) {
        self.0.get_or_insert_default().push(drain);
    }

    /// Forgets all drains but those that `stays` names.
    pub(super) fn retain(&mut self, stays: impl Fn(&DrainId) -> bool) {
        if let Some(drains) = &mut self.0 {
            drains.retain(stays);
        }
    }

    pub(super) fn as_slice(&self) -> &[DrainId] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

/// Every live connection. Identities are never used twice and grow, so that their order is that of age.
#[derive(Debug)]
pub(super) struct Roster<H> {
    members: HashMap<MemberId, Member<H>>,
    /// Ordered by upstream first, so that an upstream is a range. A place without members is no key.
    places: BTreeMap<Place, BTreeSet<MemberId>>,
    next: u64,
}

impl<H> Roster<H> {
    pub(super) fn new() -> Self {
        Roster {
            members: HashMap::new(),
            places: BTreeMap::new(),
            next: 0,
        }
    }

    pub(super) fn insert(&mut self, place: Place, handle: H) -> MemberId {
        let id = MemberId(self.next);
        self.next += 1;
        let member = Member {
            place,
            handle,
            told: false,
            drains: DrainsOf::default(),
            retires: None,
        };
        self.members.insert(id, member);
        self.places.entry(place).or_default().insert(id);
        id
    }

    pub(super) fn remove(&mut self, id: MemberId) -> Option<Member<H>> {
        let member = self.members.remove(&id)?;
        if let Some(here) = self.places.get_mut(&member.place) {
            here.remove(&id);
            if here.is_empty() {
                self.places.remove(&member.place);
            }
        }
        Some(member)
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Member<H>> {
        self.members.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member<H>> {
        self.members.get_mut(&id)
    }

    pub(super) fn handles(&self) -> impl Iterator<Item = &H> {
        self.members.values().map(|member| &member.handle)
    }

    /// Members with identities above this one, oldest first.
    pub(super) fn after(&self, after: Option<MemberId>) -> Vec<(MemberId, Place, H)>
    where
        H: Clone,
    {
        let is_after = |id: &MemberId| after.is_none_or(|after| *id > after);
        let members = self.members.iter().filter(|(id, _)| is_after(id));
        let mut members: Vec<_> = members
            .map(|(id, member)| (*id, member.place, member.handle.clone()))
            .collect();
        members.sort_unstable_by_key(|(id, ..)| *id);
        members
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Members of a selection, oldest first.
    pub(super) fn select(&self, selection: Selection) -> Vec<MemberId> {
        if let Selection::Member(id) = selection {
            return self
                .members
                .contains_key(&id)
                .then_some(id)
                .into_iter()
                .collect();
        }
        let mut ids: Vec<MemberId> = self
            .chosen(selection)
            .flat_map(|(_, here)| here.iter().copied())
            .collect();
        ids.sort_unstable();
        ids
    }

    /// How many members a selection has. Costs the number of places, not of members.
    pub(super) fn count(&self, selection: Selection) -> usize {
        if let Selection::Member(id) = selection {
            return usize::from(self.members.contains_key(&id));
        }
        self.chosen(selection).map(|(_, here)| here.len()).sum()
    }

    /// Connections by place, in the order of places.
    pub(super) fn places(&self) -> impl Iterator<Item = (Place, usize)> {
        self.places.iter().map(|(place, here)| (*place, here.len()))
    }

    fn chosen(&self, selection: Selection) -> impl Iterator<Item = (&Place, &BTreeSet<MemberId>)> {
        let (low, high) = match selection {
            Selection::Server { upstream, .. }
            | Selection::Upstream { upstream }
            | Selection::OlderThan { upstream, .. }
            | Selection::Excess { upstream } => (upstream, upstream),
            Selection::Everything | Selection::Member(_) => (0, u32::MAX),
        };
        let first = Place {
            upstream: low,
            server: 0,
            generation: 0,
        };
        let last = Place {
            upstream: high,
            server: u32::MAX,
            generation: u32::MAX,
        };
        self.places
            .range(first..=last)
            .filter(move |(place, _)| match selection {
                Selection::Server { server, .. } => place.server == server,
                Selection::OlderThan { generation, .. } => place.generation < generation,
                Selection::Upstream { .. } | Selection::Everything => true,
                Selection::Member(_) | Selection::Excess { .. } => false,
            })
    }
}
