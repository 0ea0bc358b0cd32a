use crate::relay::Buffers;
use crate::upstream::settings::{HashKey, HealthCheck, ServerSettings};
use crate::upstream::*;
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

fn settings(servers: u16) -> Upstream {
    let servers = (1..=servers)
        .map(|port| Address::Tcp(([10, 0, 0, 1], port).into()))
        .collect();
    Upstream::new("a", servers)
}

fn pool(servers: u16, balance: Balance) -> Pool {
    let settings = Upstream {
        balance,
        ..settings(servers)
    };
    Pool::new(settings, 0, Arc::default())
}

fn set_drained(pool: &Pool, server: &Server, drained: bool) {
    let name = server.address.to_string();
    let result = match drained {
        true => pool.drain(Some(&name), "a test"),
        false => pool.resume(Some(&name)),
    };
    result.expect("nothing is kept in a file");
}

fn order(pool: &Pool) -> Vec<u32> {
    numbers(pool.candidates(None))
}

fn numbers(servers: Vec<Arc<Server>>) -> Vec<u32> {
    servers.iter().map(|server| server.number).collect()
}

/// Makes so many connections, each with a key of its own, and says how many each server has of all.
fn connect(pool: &Pool, count: usize, held: &mut Vec<ServerPermit>) -> Vec<usize> {
    for _ in 0..count {
        let key = held.len().to_string();
        let server = pool.candidates(Some(key.as_bytes())).remove(0);
        held.push(server.occupy().expect("there is room"));
    }
    let members = pool.members();
    members
        .servers
        .iter()
        .map(|server| server.connections())
        .collect()
}

#[test]
fn round_robin_has_them_all_in_turn_and_by_weight() {
    let even = pool(3, Balance::RoundRobin);
    let firsts: Vec<_> = (0..6).map(|_| order(&even)[0]).collect();
    assert_eq!(firsts, [0, 1, 2, 0, 1, 2]);
    assert_eq!(order(&even).len(), 3);
    let mut weighted = settings(3);
    weighted.servers[0].weight = 5;
    weighted.balance = Balance::RoundRobin;
    let weighted = Pool::new(weighted, 0, Arc::default());
    let firsts: Vec<_> = (0..7).map(|_| order(&weighted)[0]).collect();
    // Smooth: the heavy one does not have all of its turns at once.
    assert_eq!(firsts, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn the_least_loaded_for_its_weight_is_first() {
    let pool = pool(3, Balance::LeastConnections);
    let mut held = Vec::new();
    assert_eq!(connect(&pool, 7, &mut held), [3, 2, 2]);
    held.retain(|server| server.number != 1);
    assert_eq!(connect(&pool, 2, &mut held), [3, 2, 2]);
    let mut weighted = settings(2);
    weighted.servers[1].weight = 3;
    let weighted = Pool::new(weighted, 0, Arc::default());
    assert_eq!(connect(&weighted, 40, &mut Vec::new()), [10, 30]);
}

#[test]
fn a_key_stays_with_its_server_when_others_go() {
    let pool = pool(5, Balance::Hash(HashKey::Path));
    let of = |key: usize| numbers(pool.candidates(Some(key.to_string().as_bytes())));
    let before: Vec<_> = (0..1000).map(of).collect();
    let victim = pool.members().servers[2].clone();
    set_drained(&pool, &victim, true);
    for (key, before) in before.iter().enumerate() {
        let expected: Vec<u32> = before
            .iter()
            .copied()
            .filter(|number| *number != 2)
            .collect();
        assert_eq!(of(key), expected, "only the keys of the one that went move");
    }
    let shares = (0..5).map(|server| before.iter().filter(|order| order[0] == server).count());
    assert!(
        shares.clone().all(|share| (140..260).contains(&share)),
        "{:?}",
        shares.collect::<Vec<_>>()
    );
}

#[test]
fn a_server_that_is_full_is_passed_over_and_backups_come_last() {
    let mut settings = settings(3);
    settings.servers[0].max_connections = 2;
    settings.servers[1].max_connections = 2;
    settings.servers[2].backup = true;
    let pool = Pool::new(settings, 0, Arc::default());
    let mut held = Vec::new();
    assert_eq!(connect(&pool, 4, &mut held), [2, 2, 0]);
    assert_eq!(connect(&pool, 3, &mut held), [2, 2, 3], "the backup");
    held.remove(0);
    assert_eq!(connect(&pool, 1, &mut held).iter().sum::<usize>(), 7);
    assert_eq!(pool.members().servers[2].connections(), 3);
}

/// `count` connects to a server fail.
fn fail(pool: &Pool, server: &Arc<Server>, count: usize) {
    let (metrics, now) = (Metrics::new(), std::time::Instant::now());
    for _ in 0..count {
        pool.handle_failure(server, EjectionReason::Unreachable, None, now, &metrics);
    }
}

fn ejected(pool: &Pool) -> Vec<u32> {
    let members = pool.members();
    let ejected = members.servers.iter().filter(|server| server.is_ejected());
    ejected.map(|server| server.number).collect()
}

#[test]
fn no_more_than_half_of_the_servers_are_left_alone() {
    for (servers, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let pool = pool(servers, Balance::RoundRobin);
        for server in pool.members().servers.clone() {
            fail(&pool, &server, 100);
        }
        assert_eq!(ejected(&pool).len(), most, "of {servers}");
        assert_eq!(order(&pool).len(), usize::from(servers) - most);
    }
    // Half of those that take connections otherwise.
    let pool = pool(4, Balance::RoundRobin);
    let servers = pool.members().servers.clone();
    set_drained(&pool, &servers[0], true);
    pool.set_health(&servers[1], HealthStatus::Bad);
    fail(&pool, &servers[2], 5);
    fail(&pool, &servers[3], 5);
    assert_eq!(ejected(&pool), [2]);
    assert_eq!(
        servers[2].ejection().map(|ejected| ejected.reason),
        Some(EjectionReason::Unreachable)
    );
    assert_eq!((order(&pool), servers[2].state()), (vec![3], State::Down));
    // Where no other takes any, one that is left alone may have recovered.
    set_drained(&pool, &servers[3], true);
    assert_eq!(order(&pool), [2]);
}

#[test]
fn a_check_that_passes_keeps_a_server_and_brings_it_back() {
    let pool = pool(2, Balance::RoundRobin);
    let server = pool.members().servers[0].clone();
    let later = std::time::Instant::now() + Duration::from_secs(60);
    pool.handle_check(&server, Some(later));
    fail(&pool, &server, 100);
    assert_eq!(ejected(&pool), [0; 0]);
    pool.handle_check(&server, None);
    fail(&pool, &server, 1);
    assert_eq!(ejected(&pool), [0]);
    pool.handle_check(&server, Some(later));
    assert_eq!(ejected(&pool), [0; 0]);
}

#[test]
fn the_fewest_connections_do_not_draw_clients_to_a_server_that_fails() {
    let pool = pool(2, Balance::LeastConnections);
    let mut held = Vec::new();
    assert_eq!(connect(&pool, 2, &mut held), [1, 1]);
    let first = pool.members().servers[0].clone();
    held.retain(|server| server.number == 1);
    fail(&pool, &first, 1);
    assert_eq!(connect(&pool, 4, &mut held), [0, 5], "for a moment");
    first
        .ejector()
        .handle_doubt(std::time::Instant::now() - Duration::from_secs(1));
    assert_eq!(connect(&pool, 4, &mut held), [4, 5]);
}

#[test]
fn a_server_that_is_drained_or_down_has_no_turn() {
    let pool = pool(3, Balance::RoundRobin);
    let second = pool.members().servers[1].clone();
    set_drained(&pool, &second, true);
    for _ in 0..6 {
        let order = order(&pool);
        assert!(order == [0, 2] || order == [2, 0], "{order:?}");
    }
    set_drained(&pool, &second, false);
    assert_eq!(order(&pool).len(), 3);
    pool.set_health(&second, HealthStatus::Bad);
    assert_eq!((order(&pool).len(), second.state()), (2, State::Down));
}

#[test]
fn a_server_that_left_serves_until_another_one_can() {
    let pool = pool(1, Balance::LeastConnections);
    let next = Upstream {
        servers: vec![ServerSettings::new(Address::Tcp(([10, 0, 0, 2], 1).into()))],
        health: Some(HealthCheck::default()),
        ..pool.members().settings.clone()
    };
    let update = pool.update(next);
    assert_eq!(update.left.len(), 1);
    assert_eq!(order(&pool), [0], "the new one has not passed its checks");
    let new = pool.members().servers[0].clone();
    pool.set_health(&new, HealthStatus::Good);
    assert_eq!(order(&pool), [1]);
}

#[test]
fn who_comes_back_slowly_gets_less() {
    for balance in [Balance::LeastConnections, Balance::RoundRobin] {
        let pool = pool(2, balance);
        let health = HealthCheck {
            slow_start: Duration::from_secs(3600),
            ..HealthCheck::default()
        };
        pool.update(Upstream {
            health: Some(health),
            ..pool.members().settings.clone()
        });
        let second = pool.members().servers[1].clone();
        pool.set_health(&second, HealthStatus::Bad);
        pool.set_health(&second, HealthStatus::Good);
        let shares = connect(&pool, 1100, &mut Vec::new());
        assert!((90..=120).contains(&shares[1]), "{shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_none_takes_it_an_upgrade_waits_for_one() {
    let pool = Arc::new(Pool::new(
        Upstream::new("a", vec![Address::Unix("/nonexistent".into())]),
        0,
        Arc::default(),
    ));
    let server = pool.members().servers[0].clone();
    set_drained(&pool, &server, true);
    let metrics = Arc::new(Metrics::new());
    let (held, timeout) = (Instant::now(), pool.members().settings.queue_timeout);
    let stays = std::future::pending;
    let buffers = Arc::new(Buffers::new(metrics.clone()));
    let reserve = || Buffers::reserve(&buffers, 1 << 10);
    let wish = Wish {
        key: None,
        avoid: None,
        network: None,
        reserve: &reserve,
    };
    let connected = pool.connect(&wish, &metrics, pin!(stays())).await;
    assert!(!connected.expect_err("it is out").is_tried);
    assert_eq!(held.elapsed(), timeout);
    let client = pin!(stays());
    let (unreachable, ()) = tokio::join!(pool.connect(&wish, &metrics, client), async {
        tokio::time::sleep(timeout / 2).await;
        set_drained(&pool, &server, false);
    });
    assert!(
        unreachable.expect_err("nobody listens there").is_tried,
        "it was tried once it was in again"
    );
    set_drained(&pool, &server, true);
    buffers.set_limit(1 << 10);
    let client = pin!(stays());
    let refused = pool.connect(&wish, &metrics, client).await;
    assert!(refused.expect_err("it cannot wait").lacks_memory);
}

/// 5,000 connections over five servers, each of which is drained, restarted and let in again; then a fifth of the clients
/// go and come anew, as they do in time or at their maximal age. Prints how they lie.
#[test]
fn loads_after_a_rolling_deploy() {
    for (name, balance) in [
        ("least_connections", Balance::LeastConnections),
        ("round_robin", Balance::RoundRobin),
        ("hash", Balance::Hash(HashKey::Path)),
    ] {
        let pool = pool(5, balance.clone());
        let loads = || -> Vec<usize> {
            let members = pool.members();
            let servers = members.servers.iter();
            servers.map(|server| server.connections()).collect()
        };
        let mut held = Vec::new();
        let before = connect(&pool, 5000, &mut held);
        // Clients come back one by one, with the keys that they had.
        let reconnect = |held: &mut Vec<ServerPermit>, client: usize| {
            let key = client.to_string();
            let next = pool.candidates(Some(key.as_bytes())).remove(0);
            held[client] = next.occupy().expect("there is room");
        };
        for number in 0..5 {
            let server = pool.members().servers[number].clone();
            set_drained(&pool, &server, true);
            for client in 0..held.len() {
                if held[client].number == server.number {
                    reconnect(&mut held, client);
                }
            }
            set_drained(&pool, &server, false);
        }
        let deployed = loads();
        (0..5000)
            .step_by(5)
            .for_each(|client| reconnect(&mut held, client));
        let later = loads();
        println!("{name:<18} before {before:?}, deployed {deployed:?}, a fifth anew {later:?}");
        assert_eq!(later.iter().sum::<usize>(), 5000);
        if balance == Balance::LeastConnections {
            assert_eq!(before, [1000; 5]);
            assert!(
                deployed[..4].iter().all(|load| *load == 1250),
                "{deployed:?}"
            );
            assert!(
                later.iter().all(|load| load.abs_diff(1000) < 60),
                "{later:?}"
            );
        }
    }
}
