//! The order of freezing, as a question about numbers. Pure.
//!
//! Filesystems are 0, 1, 2 … in the order in which they are frozen if nothing else is known. They
//! are dealt out to levels: what stands on another gets a lower level than that one, and each the
//! lowest that it can have. What shares a level does not depend on each other and is frozen side by
//! side; levels follow one another.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// One filesystem stands on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// The one that has to be frozen first.
    pub above: usize,
    /// The one that it stands on.
    pub below: usize,
    /// Known for sure. What is only probable gives way where it would close a circle.
    pub certain: bool,
}

/// Where one filesystem comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which one it is.
    pub number: usize,
    /// Its level, from 0 up; of what is chosen, each level up to the highest has some.
    pub level: usize,
}

/// What is to be put in order.
pub struct Question<'a> {
    /// How many filesystems there are.
    pub count: usize,
    /// What stands on what; edges of others are passed over.
    pub edges: &'a [Edge],
    /// The ones that will be frozen; the others only say what stands on what.
    pub chosen: &'a dyn Fn(usize) -> bool,
    /// A circle with a chosen member is an error.
    pub strict: bool,
    /// The highest number, the root, goes on the highest level of all that do not stand below it.
    pub root_last: bool,
}

/// All filesystems, level by level, in an order in which no edge runs backwards. On one level the
/// lower numbers come first, as far as the edges of what is not chosen allow.
///
/// # Errors
/// If `strict`, a circle of certain edges with a chosen member: the members of everything that goes in
/// circles with it, in ascending order. Other circles are cut open.
pub fn sort(question: &Question<'_>) -> Result<Vec<Place>, Vec<usize>> {
    let &Question {
        count,
        edges,
        chosen,
        strict,
        root_last,
    } = question;
    let mut edges: BTreeSet<Edge> = edges
        .iter()
        .copied()
        .filter(|edge| edge.above < count && edge.below < count)
        .collect();
    loop {
        let (order, stuck) = kahn(count, &edges);
        if stuck.is_empty() {
            return Ok(dealt_out(&order, &edges, chosen, root_last));
        }
        let groups = circles(&stuck, &edges);
        let group_of = |edge: &Edge| {
            groups
                .iter()
                .find(|group| group.contains(&edge.above) && group.contains(&edge.below))
        };
        let doubtful: Vec<Edge> = edges
            .iter()
            .copied()
            .filter(|edge| !edge.certain && group_of(edge).is_some())
            .collect();
        if doubtful.is_empty() {
            if let Some(group) = groups
                .iter()
                .find(|group| strict && group.iter().any(|&member| chosen(member)))
            {
                return Err(group.iter().copied().collect());
            }
            for group in &groups {
                cut_open(group, &mut edges);
            }
        } else {
            for edge in doubtful {
                edges.remove(&edge);
            }
        }
    }
}

/// Takes the edges within a group away; what stands on one of it still stands on what another of it
/// stands on.
fn cut_open(group: &BTreeSet<usize>, edges: &mut BTreeSet<Edge>) {
    let (touching, mut open): (BTreeSet<Edge>, BTreeSet<Edge>) = std::mem::take(edges)
        .into_iter()
        .partition(|edge| group.contains(&edge.above) || group.contains(&edge.below));
    let (into, out): (Vec<Edge>, Vec<Edge>) = touching
        .into_iter()
        .filter(|edge| !group.contains(&edge.above) || !group.contains(&edge.below))
        .partition(|edge| group.contains(&edge.below));
    for upper in &into {
        for lower in &out {
            open.insert(Edge {
                above: upper.above,
                below: lower.below,
                certain: upper.certain && lower.certain,
            });
        }
    }
    open.extend(into);
    open.extend(out);
    *edges = open;
}

/// Deals out to levels what is in `order`; there are no circles any more.
fn dealt_out(
    order: &[usize],
    edges: &BTreeSet<Edge>,
    chosen: &dyn Fn(usize) -> bool,
    root_last: bool,
) -> Vec<Place> {
    let mut level = vec![0_usize; order.len()];
    let mut highest = 0;
    for &number in order {
        // As it is the last that is picked, all that follow stand below it.
        if root_last && number + 1 == order.len() {
            level[number] = level[number].max(highest);
        }
        let own = level[number];
        if chosen(number) {
            highest = highest.max(own);
        }
        // What is not chosen is not waited for, but hands on whom it has to wait for itself.
        let next = own + usize::from(chosen(number));
        for edge in below(number, edges) {
            level[edge.below] = level[edge.below].max(next);
        }
    }
    let deepest = level.iter().max().copied().unwrap_or(0);
    let mut places = Vec::with_capacity(order.len());
    for wanted in 0..=deepest {
        let numbers = order.iter().filter(|&&number| level[number] == wanted);
        places.extend(numbers.map(|&number| Place {
            number,
            level: wanted,
        }));
    }
    places
}

/// The edges down from a filesystem.
fn below(number: usize, edges: &BTreeSet<Edge>) -> impl Iterator<Item = &Edge> {
    let lowest = Edge {
        above: number,
        below: 0,
        certain: false,
    };
    edges
        .range(lowest..)
        .take_while(move |edge| edge.above == number)
}

/// Kahn's algorithm with a priority queue: what could be put in order, and what could not, which is
/// every circle and all that lies below one.
fn kahn(count: usize, edges: &BTreeSet<Edge>) -> (Vec<usize>, BTreeSet<usize>) {
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut above = vec![0_usize; count];
    for edge in edges {
        below[edge.above].push(edge.below);
        above[edge.below] += 1;
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..count)
        .filter(|&number| above[number] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(count);
    while let Some(Reverse(number)) = ready.pop() {
        order.push(number);
        for &next in &below[number] {
            above[next] -= 1;
            if above[next] == 0 {
                ready.push(Reverse(next));
            }
        }
    }
    let stuck = (0..count).filter(|&number| above[number] > 0).collect();
    (order, stuck)
}

/// The strongly connected groups among `nodes`: sets whose members all stand on one another. There
/// are few nodes here, as a rule none, so the plain way will do.
fn circles(nodes: &BTreeSet<usize>, edges: &BTreeSet<Edge>) -> Vec<BTreeSet<usize>> {
    let reach = |start: usize| {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![start];
        while let Some(number) = waiting.pop() {
            for edge in below(number, edges) {
                if nodes.contains(&edge.below) && reached.insert(edge.below) {
                    waiting.push(edge.below);
                }
            }
        }
        reached
    };
    let reached: Vec<(usize, BTreeSet<usize>)> =
        nodes.iter().map(|&node| (node, reach(node))).collect();
    let mut groups: Vec<BTreeSet<usize>> = Vec::new();
    for (node, from_here) in &reached {
        if !from_here.contains(node) || groups.iter().any(|group| group.contains(node)) {
            continue;
        }
        let group = reached
            .iter()
            .filter(|(other, from_there)| from_here.contains(other) && from_there.contains(node))
            .map(|(other, _)| *other)
            .collect();
        groups.push(group);
    }
    groups
}

#[cfg(test)]
mod tests;
