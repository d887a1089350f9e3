//! The order of freezing, as a question about numbers. Pure.
//!
//! Filesystems are 0, 1, 2 … in the order in which they are frozen if nothing else is known. What
//! stands on another is moved before it, and nothing else is moved (a stable topological sort).

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

/// The numbers below `count` in an order in which no edge runs backwards. Among those that may
/// come next the lowest does.
///
/// # Errors
/// A circle of certain edges with a member that `matters`: the members of everything that goes in
/// circles with it, in ascending order. Other circles are cut open, for nothing of them is frozen.
pub fn sort(
    count: usize,
    edges: &[Edge],
    matters: &dyn Fn(usize) -> bool,
) -> Result<Vec<usize>, Vec<usize>> {
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
                .find(|group| group.iter().any(|&member| matters(member)))
            {
                return Err(group.iter().copied().collect());
            }
            let open: BTreeSet<Edge> = edges
                .iter()
                .copied()
                .filter(|edge| group_of(edge).is_none())
                .collect();
            edges = open;
        } else {
            for edge in doubtful {
                edges.remove(&edge);
            }
        }
    }
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
            let lowest = Edge {
                above: number,
                below: 0,
                certain: false,
            };
            for edge in edges
                .range(lowest..)
                .take_while(|edge| edge.above == number)
            {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn certain(pairs: &[(usize, usize)]) -> Vec<Edge> {
        edges(pairs, true)
    }

    fn edges(pairs: &[(usize, usize)], certain: bool) -> Vec<Edge> {
        pairs
            .iter()
            .map(|&(above, below)| Edge {
                above,
                below,
                certain,
            })
            .collect()
    }

    fn all(_: usize) -> bool {
        true
    }

    #[test]
    fn only_what_must_move_does() {
        assert_eq!(sort(4, &[], &all), Ok(vec![0, 1, 2, 3]));
        assert_eq!(
            sort(4, &certain(&[(0, 3), (1, 2)]), &all),
            Ok(vec![0, 1, 2, 3])
        );
        assert_eq!(sort(4, &certain(&[(2, 0)]), &all), Ok(vec![1, 2, 0, 3]));
        assert_eq!(
            sort(4, &certain(&[(3, 0), (3, 0)]), &all),
            Ok(vec![1, 2, 3, 0])
        );
        assert_eq!(sort(2, &certain(&[(0, 9)]), &all), Ok(vec![0, 1]));
    }

    #[test]
    fn a_circle_is_named_without_what_hangs_on_it() {
        let edges = certain(&[(1, 2), (2, 3), (3, 1), (0, 1), (3, 4)]);
        assert_eq!(sort(5, &edges, &all), Err(vec![1, 2, 3]));
        assert_eq!(sort(2, &certain(&[(1, 1)]), &all), Err(vec![1]));
        // One member is enough, and a circle of strangers is no trouble.
        assert_eq!(sort(5, &edges, &|n| n == 2), Err(vec![1, 2, 3]));
        assert_eq!(sort(5, &edges, &|n| n == 4), Ok(vec![0, 1, 2, 3, 4]));
    }

    #[test]
    fn what_is_only_probable_gives_way() {
        let mut list = certain(&[(2, 0)]);
        list.extend(edges(&[(0, 2), (1, 1), (2, 1)], false));
        assert_eq!(sort(3, &list, &all), Ok(vec![2, 0, 1]));
    }

    proptest! {
        /// Against the plain definition, on any graph.
        #[test]
        fn order_or_circle(
            count in 1_usize..12,
            pairs in proptest::collection::vec((0_usize..12, 0_usize..12, any::<bool>()), 0..20),
            chosen in any::<u16>(),
        ) {
            let list: Vec<Edge> = pairs
                .iter()
                .map(|&(above, below, certain)| Edge { above, below, certain })
                .filter(|edge| edge.above < count && edge.below < count)
                .collect();
            let matters = |n: usize| chosen >> n & 1 == 1;
            let mut reach = vec![vec![false; count]; count];
            for edge in list.iter().filter(|edge| edge.certain) {
                reach[edge.above][edge.below] = true;
            }
            for via in 0..count {
                for from in 0..count {
                    for to in 0..count {
                        reach[from][to] |= reach[from][via] && reach[via][to];
                    }
                }
            }
            let circular = (0..count).any(|n| matters(n) && reach[n][n]);
            match sort(count, &list, &matters) {
                Ok(order) => {
                    prop_assert!(!circular);
                    let mut sorted = order.clone();
                    sorted.sort_unstable();
                    prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
                    let place = |n: usize| order.iter().position(|&m| m == n).unwrap();
                    for edge in list.iter().filter(|e| e.certain && !reach[e.below][e.above]) {
                        prop_assert!(place(edge.above) < place(edge.below), "{edge:?} {order:?}");
                    }
                    if list.is_empty() {
                        prop_assert!(order.is_sorted());
                    }
                }
                Err(members) => {
                    prop_assert!(members.iter().any(|&n| matters(n)));
                    for &a in &members {
                        let group: Vec<usize> =
                            (0..count).filter(|&b| reach[a][b] && reach[b][a]).collect();
                        prop_assert_eq!(&group, &members);
                    }
                }
            }
        }
    }
}
