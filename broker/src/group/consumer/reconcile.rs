//! One step of a member from what it has to what it shall have: first it gives up, then it gets. Pure.
//!
//! In: a member, its target, what it says it owns, and which partitions are free. Out: its next state. A partition is
//! given only when its former owner has said that it let go of it, so no two members ever own it (KIP-848).

use std::collections::BTreeSet;

use uuid::Uuid;

use super::assign::Assignment;

/// Where a member is on its way to its target. The numbers are those of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Has all that its epoch gives it.
    #[default]
    Stable = 0,
    /// Must revoke partitions and has not confirmed it.
    Unrevoked = 1,
    /// Waits for partitions that others have not let go of.
    Unreleased = 2,
}

impl Phase {
    /// By its number in the log.
    pub const fn of(number: i8) -> Self {
        match number {
            1 => Self::Unrevoked,
            2 => Self::Unreleased,
            _ => Self::Stable,
        }
    }
}

/// What a member has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Current {
    /// Where it is.
    pub phase: Phase,
    /// Its epoch.
    pub epoch: i32,
    /// What it may read.
    pub assigned: Assignment,
    /// What it must revoke.
    pub revoking: Assignment,
}

impl Current {
    /// Every partition that nobody else may have.
    pub fn held(&self) -> impl Iterator<Item = (Uuid, i32)> + '_ {
        self.assigned.iter().chain(&self.revoking).flat_map(|(topic, list)| list.iter().map(|p| (*topic, *p)))
    }
}

fn owns_any(owned: Option<&Assignment>, of: &Assignment) -> bool {
    let Some(owned) = owned else { return true };
    of.iter().any(|(topic, partitions)| owned.get(topic).is_some_and(|own| !own.is_disjoint(partitions)))
}

/// The next state of a member. `owned` is what it says it has, if it says so; `is_free` is asked about partitions that
/// it has not.
pub fn next(
    now: &Current,
    target: &Assignment,
    target_epoch: i32,
    owned: Option<&Assignment>,
    is_free: impl Fn(Uuid, i32) -> bool,
) -> Current {
    let epoch = match now.phase {
        Phase::Stable if now.epoch == target_epoch => return now.clone(),
        Phase::Unrevoked if owns_any(owned, &now.revoking) => return now.clone(),
        Phase::Unrevoked => now.epoch.saturating_add(1),
        Phase::Stable | Phase::Unreleased => now.epoch,
    };
    let none = BTreeSet::new();
    let (mut assigned, mut revoking, mut coming) = (Assignment::new(), Assignment::new(), Assignment::new());
    let mut waits = false;
    let topics: BTreeSet<Uuid> = target.keys().chain(now.assigned.keys()).copied().collect();
    for topic in topics {
        let want = target.get(&topic).unwrap_or(&none);
        let have = now.assigned.get(&topic).unwrap_or(&none);
        let put = |into: &mut Assignment, partition: i32| {
            into.entry(topic).or_default().insert(partition);
        };
        for partition in have {
            put(if want.contains(partition) { &mut assigned } else { &mut revoking }, *partition);
        }
        for partition in want.difference(have) {
            let was_own = now.revoking.get(&topic).is_some_and(|own| own.contains(partition));
            if was_own || is_free(topic, *partition) {
                put(&mut coming, *partition);
            } else {
                waits = true;
            }
        }
    }
    if !revoking.is_empty() && owns_any(owned, &revoking) {
        return Current { phase: Phase::Unrevoked, epoch, assigned, revoking };
    }
    for (topic, partitions) in coming {
        assigned.entry(topic).or_default().extend(partitions);
    }
    let phase = if waits { Phase::Unreleased } else { Phase::Stable };
    Current { phase, epoch: target_epoch, assigned, revoking: Assignment::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &[i32]) -> Assignment {
        if list.is_empty() { Assignment::new() } else { [(Uuid::nil(), list.iter().copied().collect())].into() }
    }

    #[test]
    fn steps_of_a_member() {
        use Phase::{Stable, Unreleased, Unrevoked};
        type Case<'a> = (&'a str, (Phase, i32, &'a [i32], &'a [i32]), &'a [i32], i32, Option<&'a [i32]>, &'a [i32]);
        type Want<'a> = (Phase, i32, &'a [i32], &'a [i32]);
        let cases: [(Case<'_>, Want<'_>); 10] = [
            (("nothing new", (Stable, 5, &[0], &[]), &[0], 5, None, &[1]), (Stable, 5, &[0], &[])),
            (("more, and it is free", (Stable, 5, &[0], &[]), &[0, 1], 6, None, &[1]), (Stable, 6, &[0, 1], &[])),
            (("more, held by others", (Stable, 5, &[0], &[]), &[0, 1], 6, None, &[]), (Unreleased, 6, &[0], &[])),
            (("some free, some held", (Stable, 5, &[], &[]), &[0, 1], 6, None, &[0]), (Unreleased, 6, &[0], &[])),
            (("now free", (Unreleased, 6, &[0], &[]), &[0, 1], 6, None, &[1]), (Stable, 6, &[0, 1], &[])),
            (("less", (Stable, 5, &[0, 1], &[]), &[0], 6, None, &[]), (Unrevoked, 5, &[0], &[1])),
            (("less, already let go", (Stable, 5, &[0, 1], &[]), &[0], 6, Some(&[0]), &[]), (Stable, 6, &[0], &[])),
            (("silent on what it owns", (Unrevoked, 5, &[0], &[1]), &[0], 6, None, &[]), (Unrevoked, 5, &[0], &[1])),
            (("let go", (Unrevoked, 5, &[0], &[1]), &[0, 2], 6, Some(&[0]), &[2]), (Stable, 6, &[0, 2], &[])),
            (
                ("let go, more to let go", (Unrevoked, 5, &[0, 3], &[1]), &[0], 8, Some(&[0, 3]), &[]),
                (Unrevoked, 6, &[0], &[3]),
            ),
        ];
        for ((name, (phase, epoch, assigned, revoking), target, target_epoch, owned, free), want) in cases {
            let now = Current { phase, epoch, assigned: set(assigned), revoking: set(revoking) };
            let owned = owned.map(set);
            let got = next(&now, &set(target), target_epoch, owned.as_ref(), |_, p| free.contains(&p));
            let (phase, epoch, assigned, revoking) = want;
            let want = Current { phase, epoch, assigned: set(assigned), revoking: set(revoking) };
            assert_eq!(got, want, "{name}");
        }
    }
}
