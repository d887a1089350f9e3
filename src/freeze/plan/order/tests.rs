//! The order of small graphs, and of any graph against the definition.

use super::*;
use proptest::prelude::*;

fn edges(pairs: &[(usize, usize)]) -> Vec<Edge> {
    pairs
        .iter()
        .map(|&(above, below)| Edge { above, below })
        .collect()
}

fn sorted(count: usize, edges: &[Edge]) -> Result<Vec<usize>, Vec<usize>> {
    sorted_of(count, edges, &|_| true)
}

fn sorted_of(
    count: usize,
    edges: &[Edge],
    chosen: &dyn Fn(usize) -> bool,
) -> Result<Vec<usize>, Vec<usize>> {
    sort(&OrderInput {
        count,
        edges,
        chosen,
        strict: true,
    })
}

#[test]
fn what_must_wait_does_and_the_rest_keeps_its_order() {
    assert_eq!(sorted(4, &[]), Ok(vec![0, 1, 2, 3]));
    assert_eq!(sorted(4, &edges(&[(0, 3), (1, 2)])), Ok(vec![0, 1, 2, 3]));
    assert_eq!(sorted(4, &edges(&[(2, 0)])), Ok(vec![1, 2, 0, 3]));
    assert_eq!(sorted(4, &edges(&[(3, 0), (3, 0)])), Ok(vec![1, 2, 3, 0]));
    assert_eq!(sorted(2, &edges(&[(0, 9)])), Ok(vec![0, 1]));
}

#[test]
fn a_cycle_is_named_without_what_depends_on_it() {
    let list = edges(&[(1, 2), (2, 3), (3, 1), (0, 1), (3, 4)]);
    assert_eq!(sorted(5, &list), Err(vec![1, 2, 3]));
    assert_eq!(sorted(2, &edges(&[(1, 1)])), Err(vec![1]));
    // One chosen member makes the cycle an error; a cycle without one is none.
    assert_eq!(sorted_of(5, &list, &|n| n == 2), Err(vec![1, 2, 3]));
    assert_eq!(sorted_of(5, &list, &|n| n == 4), Ok(vec![0, 1, 2, 3, 4]));
    let loose = sort(&OrderInput {
        count: 5,
        edges: &list,
        chosen: &|_| true,
        strict: false,
    });
    assert_eq!(loose, Ok(vec![0, 1, 2, 3, 4]));
}

#[test]
fn what_depends_on_another_through_a_cycle_comes_before_it() {
    let list = edges(&[(3, 1), (1, 2), (2, 1), (2, 0)]);
    assert_eq!(
        sorted_of(4, &list, &|n| n == 0 || n == 3),
        Ok(vec![3, 1, 2, 0])
    );
}

proptest! {
    #[test]
    fn order_or_cycle(
        count in 1_usize..12,
        pairs in proptest::collection::vec((0_usize..12, 0_usize..12), 0..20),
        chosen in any::<u16>(),
    ) {
        let list: Vec<Edge> = pairs
            .iter()
            .map(|&(above, below)| Edge { above, below })
            .filter(|edge| edge.above < count && edge.below < count)
            .collect();
        let matters = |n: usize| (chosen >> n) & 1 == 1;
        let reach = {
            let mut reach = vec![vec![false; count]; count];
            for edge in &list {
                reach[edge.above][edge.below] = true;
            }
            for via in 0..count {
                for from in 0..count {
                    for to in 0..count {
                        reach[from][to] |= reach[from][via] && reach[via][to];
                    }
                }
            }
            reach
        };
        let circular = (0..count).any(|n| matters(n) && reach[n][n]);
        match sorted_of(count, &list, &matters) {
            Ok(order) => {
                prop_assert!(!circular);
                let mut numbers = order.clone();
                numbers.sort_unstable();
                prop_assert_eq!(numbers, (0..count).collect::<Vec<_>>());
                let place = |n: usize| order.iter().position(|&m| m == n).unwrap();
                for edge in list.iter().filter(|e| !reach[e.below][e.above]) {
                    prop_assert!(place(edge.above) < place(edge.below), "{edge:?} {order:?}");
                }
                for (a, b) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))) {
                    if matters(a) && matters(b) && reach[a][b] {
                        prop_assert!(place(a) < place(b), "{a} depends on {b}: {order:?}");
                    }
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
