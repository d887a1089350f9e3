//! Small graphs, and any graph against the plain definition.

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

/// The numbers in order, with all chosen.
fn sorted(count: usize, edges: &[Edge]) -> Result<Vec<usize>, Vec<usize>> {
    sorted_of(count, edges, &|_| true)
}

fn sorted_of(
    count: usize,
    edges: &[Edge],
    chosen: &dyn Fn(usize) -> bool,
) -> Result<Vec<usize>, Vec<usize>> {
    let places = levels(count, edges, chosen, false)?;
    Ok(places.iter().map(|place| place.number).collect())
}

fn levels(
    count: usize,
    edges: &[Edge],
    chosen: &dyn Fn(usize) -> bool,
    root_last: bool,
) -> Result<Vec<Place>, Vec<usize>> {
    sort(&Question {
        count,
        edges,
        chosen,
        strict: true,
        root_last,
    })
}

/// The level of each number.
fn level_of(places: &[Place]) -> Vec<usize> {
    let mut places = places.to_vec();
    places.sort_by_key(|place| place.number);
    places.iter().map(|place| place.level).collect()
}

#[test]
fn what_must_wait_does_and_the_rest_keeps_its_order() {
    assert_eq!(sorted(4, &[]), Ok(vec![0, 1, 2, 3]));
    assert_eq!(sorted(4, &certain(&[(0, 3), (1, 2)])), Ok(vec![0, 1, 2, 3]));
    assert_eq!(sorted(4, &certain(&[(2, 0)])), Ok(vec![1, 2, 3, 0]));
    assert_eq!(sorted(4, &certain(&[(3, 0), (3, 0)])), Ok(vec![1, 2, 3, 0]));
    assert_eq!(sorted(2, &certain(&[(0, 9)])), Ok(vec![0, 1]));
}

#[test]
fn each_has_the_lowest_level_that_it_can_have() {
    let all = |_| true;
    let of = |pairs: &[(usize, usize)], root_last| {
        level_of(&levels(5, &certain(pairs), &all, root_last).unwrap())
    };
    assert_eq!(of(&[], false), [0, 0, 0, 0, 0]);
    assert_eq!(of(&[(0, 1), (1, 2), (3, 2)], false), [0, 1, 2, 0, 0]);
    // Two pairs do not make four levels, however they are mounted.
    assert_eq!(of(&[(0, 1), (2, 3)], false), [0, 1, 0, 1, 0]);
    // The root goes with the last that do not stand below it.
    assert_eq!(of(&[(0, 1), (2, 3)], true), [0, 1, 0, 1, 1]);
    assert_eq!(of(&[(0, 1), (1, 4)], true), [0, 1, 0, 0, 2]);
    assert_eq!(of(&[(0, 1), (4, 2), (2, 3)], true), [0, 1, 2, 3, 1]);
    assert_eq!(of(&[], true), [0, 0, 0, 0, 0]);
}

#[test]
fn what_is_not_chosen_is_not_waited_for_but_stands_between() {
    let chosen = |number| number != 1;
    let of =
        |pairs: &[(usize, usize)]| level_of(&levels(3, &certain(pairs), &chosen, false).unwrap());
    assert_eq!(of(&[(1, 0)]), [0, 0, 0]);
    assert_eq!(of(&[(2, 1), (1, 0)]), [1, 1, 0]);
}

#[test]
fn a_circle_is_named_without_what_hangs_on_it() {
    let edges = certain(&[(1, 2), (2, 3), (3, 1), (0, 1), (3, 4)]);
    assert_eq!(sorted(5, &edges), Err(vec![1, 2, 3]));
    assert_eq!(sorted(2, &certain(&[(1, 1)])), Err(vec![1]));
    // One member is enough, and a circle of strangers is no trouble.
    assert_eq!(sorted_of(5, &edges, &|n| n == 2), Err(vec![1, 2, 3]));
    assert_eq!(sorted_of(5, &edges, &|n| n == 4), Ok(vec![0, 1, 2, 3, 4]));
    let loose = sort(&Question {
        count: 5,
        edges: &edges,
        chosen: &|_| true,
        strict: false,
        root_last: false,
    });
    assert_eq!(level_of(&loose.unwrap()), [0, 1, 0, 0, 1]);
}

#[test]
fn order_holds_across_a_circle_of_strangers() {
    let edges = certain(&[(3, 1), (1, 2), (2, 1), (2, 0)]);
    let chosen = |number| number == 3 || number == 0;
    let places = levels(4, &edges, &chosen, false).unwrap();
    assert_eq!(level_of(&places), [1, 1, 0, 0]);
}

#[test]
fn what_is_only_probable_gives_way() {
    let mut list = certain(&[(2, 0)]);
    list.extend(edges(&[(0, 2), (1, 1), (2, 1)], false));
    assert_eq!(sorted(3, &list), Ok(vec![2, 0, 1]));
}

proptest! {
    /// Against the plain definition, on any graph.
    #[test]
    fn order_or_circle(
        count in 1_usize..12,
        pairs in proptest::collection::vec((0_usize..12, 0_usize..12, any::<bool>()), 0..20),
        chosen in any::<u16>(),
        root_last in any::<bool>(),
    ) {
        let list: Vec<Edge> = pairs
            .iter()
            .map(|&(above, below, certain)| Edge { above, below, certain })
            .filter(|edge| edge.above < count && edge.below < count)
            .collect();
        let matters = |n: usize| chosen >> n & 1 == 1;
        let closed = |certain_only: bool| {
            let mut reach = vec![vec![false; count]; count];
            for edge in list.iter().filter(|edge| edge.certain || !certain_only) {
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
        let reach = closed(true);
        let perhaps = closed(false);
        let circular = (0..count).any(|n| matters(n) && reach[n][n]);
        match levels(count, &list, &matters, root_last) {
            Ok(places) => {
                prop_assert!(!circular);
                prop_assert!(places.is_sorted_by_key(|place| place.level));
                let order: Vec<usize> = places.iter().map(|place| place.number).collect();
                let level = level_of(&places);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
                let place = |n: usize| order.iter().position(|&m| m == n).unwrap();
                for edge in list.iter().filter(|e| e.certain && !reach[e.below][e.above]) {
                    prop_assert!(place(edge.above) < place(edge.below), "{edge:?} {order:?}");
                    prop_assert!(level[edge.above] <= level[edge.below]);
                }
                for (a, b) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))) {
                    if matters(a) && matters(b) && reach[a][b] {
                        prop_assert!(level[a] < level[b], "{b} is below {a}");
                    }
                }
                if root_last {
                    for n in (0..count).filter(|&n| matters(n) && !perhaps[count - 1][n]) {
                        prop_assert!(level[n] <= level[count - 1], "{n} {level:?}");
                    }
                }
                let of_chosen = |n: &usize| matters(*n).then_some(level[*n]);
                let used: BTreeSet<usize> =
                    (0..count).filter_map(|n| of_chosen(&n)).collect();
                prop_assert!(used.iter().copied().eq(0..used.len()), "{used:?}");
                if list.is_empty() {
                    prop_assert!(order.is_sorted());
                    prop_assert!(level.iter().all(|&level| level == 0));
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
