//! The order of freezing, as a question about numbers. Pure.
//!
//! Filesystems are 0, 1, 2 … in the order in which they are frozen if nothing else is known. Where one
//! depends on another it comes before that one; all else keeps its order.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// One filesystem stands on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// The one that has to be frozen first.
    pub above: usize,
    /// The one that it stands on.
    pub below: usize,
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
}

/// All filesystems in an order in which no edge runs backwards; each time the lowest number of those
/// that can be next.
///
/// # Errors
/// If `strict`, a circle with a chosen member: the members of everything that goes in circles with it, in
/// ascending order. The edges of other circles are dropped.
pub fn sort(question: &Question<'_>) -> Result<Vec<usize>, Vec<usize>> {
    let &Question {
        count,
        edges,
        chosen,
        strict,
    } = question;
    let mut edges: BTreeSet<Edge> = edges
        .iter()
        .copied()
        .filter(|edge| edge.above < count && edge.below < count)
        .collect();
    loop {
        let (order, stuck) = kahn(count, &edges);
        if stuck.is_empty() {
            return Ok(order);
        }
        let groups = find_cycles(&stuck, &edges);
        let matters = |group: &&BTreeSet<usize>| strict && group.iter().any(|&n| chosen(n));
        if let Some(group) = groups.iter().find(matters) {
            return Err(group.iter().copied().collect());
        }
        let is_within = |edge: &Edge, group: &BTreeSet<usize>| {
            group.contains(&edge.above) && group.contains(&edge.below)
        };
        edges.retain(|edge| !groups.iter().any(|group| is_within(edge, group)));
    }
}

/// The edges down from a filesystem.
fn below(number: usize, edges: &BTreeSet<Edge>) -> impl Iterator<Item = &Edge> {
    let lowest = Edge {
        above: number,
        below: 0,
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
fn find_cycles(nodes: &BTreeSet<usize>, edges: &BTreeSet<Edge>) -> Vec<BTreeSet<usize>> {
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
