//! The order of freezing as a topological sort of numbers. Pure.
//!
//! Filesystems are numbered 0, 1, 2 … in the order without dependencies. One that depends on another comes before it;
//! the others keep their order.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Frozen first.
    pub above: usize,
    pub below: usize,
}

pub struct OrderInput<'a> {
    pub count: usize,
    /// Those of numbers from `count` on are ignored.
    pub edges: &'a [Edge],
    /// The others only carry dependencies.
    pub chosen: &'a dyn Fn(usize) -> bool,
    /// A cycle with a chosen member is an error.
    pub strict: bool,
}

/// Each comes before what it depends on; of those that can be next, the one with the lowest number is. If `strict`, a
/// cycle with a chosen member is an error: the members of its strongly connected component, in ascending order. The
/// members of other cycles have no order among themselves.
pub fn sort(input: &OrderInput<'_>) -> Result<Vec<usize>, Vec<usize>> {
    let &OrderInput {
        count,
        edges,
        chosen,
        strict,
    } = input;
    let mut edges: BTreeSet<Edge> = edges
        .iter()
        .copied()
        .filter(|edge| edge.above < count && edge.below < count)
        .collect();
    loop {
        let (order, unsorted) = kahn(count, &edges);
        if unsorted.is_empty() {
            return Ok(order);
        }
        let groups = find_cycles(&unsorted, &edges);
        let matters = |group: &&BTreeSet<usize>| strict && group.iter().any(|&n| chosen(n));
        if let Some(group) = groups.iter().find(matters) {
            return Err(group.iter().copied().collect());
        }
        for group in &groups {
            edges = without_cycle(&edges, group);
        }
    }
}

/// In place of its own edges each member of the cycle has those of all members to and from the rest, because what
/// depends on one member depends on all that the cycle depends on.
fn without_cycle(edges: &BTreeSet<Edge>, group: &BTreeSet<usize>) -> BTreeSet<Edge> {
    let mut result = BTreeSet::new();
    for &edge in edges {
        match (group.contains(&edge.above), group.contains(&edge.below)) {
            (true, true) => {}
            (true, false) => result.extend(group.iter().map(|&above| Edge { above, ..edge })),
            (false, true) => result.extend(group.iter().map(|&below| Edge { below, ..edge })),
            (false, false) => {
                result.insert(edge);
            }
        }
    }
    result
}

fn below(number: usize, edges: &BTreeSet<Edge>) -> impl Iterator<Item = &Edge> {
    let lowest = Edge {
        above: number,
        below: 0,
    };
    edges
        .range(lowest..)
        .take_while(move |edge| edge.above == number)
}

/// Kahn's algorithm with a priority queue: the order, and the rest: every cycle and all that one depends on.
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
    let unsorted = (0..count).filter(|&number| above[number] > 0).collect();
    (order, unsorted)
}

/// Strongly connected components. There are few nodes, as a rule none: a search from each node is fast enough.
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
