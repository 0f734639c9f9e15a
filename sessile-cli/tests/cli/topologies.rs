//! A cluster, a primary with sentinels, and encrypted connections.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::support::{App, Server, command, finish, free_port, run, until};

const PRIMARIES: usize = 3;

/// Three primaries without replicas.
fn cluster(more: &[&str]) -> Vec<Server> {
    let mut buses = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..PRIMARIES {
        let mut bus = String::new();
        servers.push(Server::start_by(None, || {
            bus = free_port().to_string();
            let arguments = [
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "5000",
                "--cluster-port",
                &bus,
            ];
            arguments
                .iter()
                .chain(more)
                .map(ToString::to_string)
                .collect()
        }));
        buses.push(bus);
    }
    for number in 0..PRIMARIES {
        let share = |number: usize| (16_384 * number / PRIMARIES).to_string();
        let last = (16_384 * (number + 1) / PRIMARIES - 1).to_string();
        servers[number].ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &share(number), &last]);
        servers[number].ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
        let port = servers[number].port.to_string();
        servers[0].ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &buses[number]]);
    }
    until("the cluster is ready", || {
        servers.iter().all(|server| {
            let info: String = server.ask(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        })
    });
    servers
}

fn url(servers: &[Server]) -> String {
    let hosts: Vec<_> = servers
        .iter()
        .map(|it| format!("127.0.0.1:{}", it.port))
        .collect();
    format!("redis+cluster://{}/", hosts.join(","))
}

#[tokio::test]
async fn the_sessions_of_all_nodes_of_a_cluster_are_seen_and_ended() {
    let mut servers = cluster(&["--cluster-require-full-coverage", "no"]);
    let url = url(&servers);
    let ran = run(&["doctor", &url, "--json"]);
    assert_eq!(
        (
            ran.code,
            ran.found("cluster").len(),
            ran.found("store").len()
        ),
        (0, 0, 0),
        "{ran:?}"
    );
    assert_eq!(ran.json()["servers"].as_array().unwrap().len(), PRIMARIES);
    assert_eq!(
        ran.found("replicas"),
        vec!["warning"; PRIMARIES],
        "{}",
        ran.out
    );
    assert_eq!(ran.found("coverage"), Vec::<String>::new());

    let mut watch = command(&["watch", &url, "--enable", "--limit", "12"]);
    watch.stdout(std::process::Stdio::piped());
    let watch = watch.spawn().unwrap();
    until("it listens", || {
        servers
            .iter()
            .all(|it| it.ask::<u64>(&["PUBSUB", "NUMPAT"]) == 1)
    });
    let app = App::new(&url).await;
    let mut handles = Vec::new();
    for _ in 0..12 {
        let mut visitor = app.visitor();
        visitor.go("/set/a/b").await;
        handles.push(visitor.handle);
    }
    let shown = watch.wait_with_output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for handle in &handles {
        assert!(shown.contains(handle), "{shown}");
    }
    assert_eq!(run(&["stats", &url, "--json"]).json()["sessions"], 12);
    assert_eq!(run(&["list", &url, "--json"]).out.lines().count(), 12);
    assert_eq!(run(&["explain", &handles[0], "--url", &url]).code, 0);
    let ended = run(&[
        "destroy", "--all", "--yes", "--expect", "12", "--url", &url, "--json",
    ]);
    assert_eq!(ended.json()["ended"], 12, "{ended:?}");

    servers[0].ask::<()>(&["CLUSTER", "DELSLOTS", "0", "1"]);
    let ran = run(&["doctor", &url, "--json"]);
    assert!(
        ran.code == 1 && ran.out.contains("2 of 16384 slots have no node"),
        "{}",
        ran.out
    );
    servers[0].ask::<()>(&["CONFIG", "SET", "cluster-require-full-coverage", "yes"]);
    servers[2].kill();
    let ran = run(&["doctor", &url, "--json"]);
    assert!(
        ran.found("coverage") == ["warning"] && ran.found("connect") == ["problem"],
        "{}",
        ran.out
    );
}

#[tokio::test]
async fn sentinels_lead_to_the_primary_and_are_checked() {
    let primary = Server::start();
    let config = |name: &str| {
        format!(
            "sentinel monitor {name} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {name} 60000\n",
            primary.port
        )
    };
    let mut sentinels: Vec<_> = (0..3)
        .map(|_| Server::start_sentinel(&config("mymaster")))
        .collect();
    until("the sentinels know each other", || {
        sentinels.iter().all(|it| {
            it.ask::<String>(&["INFO", "sentinel"])
                .contains("sentinels=3")
        })
    });
    let url = |sentinels: &[Server]| {
        let hosts: Vec<_> = sentinels
            .iter()
            .map(|it| format!("127.0.0.1:{}", it.port))
            .collect();
        format!("redis+sentinel://{}/mymaster", hosts.join(","))
    };
    let all = url(&sentinels);
    let app = App::new(&all).await;
    let mia = app.signed_in("mia").await;
    assert_eq!(run(&["show", &mia.handle, "--url", &all]).code, 0);
    let ran = run(&["doctor", &all, "--json"]);
    assert_eq!(
        (ran.found("sentinels").len(), ran.found("quorum").len()),
        (0, 0),
        "{}",
        ran.out
    );
    assert_eq!(ran.found("replicas"), ["warning"]);
    let one = run(&["doctor", &url(&sentinels[..1]), "--json"]);
    assert!(
        one.found("quorum") == ["warning"] && one.out.contains("names 1 of 3"),
        "{}",
        one.out
    );

    sentinels[2].kill();
    let ran = run(&["doctor", &all, "--json"]);
    assert_eq!(ran.found("sentinels"), ["warning"], "{}", ran.out);
    let stranger = Server::start_sentinel(&config("other"));
    let hosts = format!(
        "127.0.0.1:{},127.0.0.1:{}",
        sentinels[0].port, stranger.port
    );
    let mut doctor = command(&["doctor", "--json"]);
    doctor.env("SESSILE_URL", format!("redis+sentinel://{hosts}/mymaster"));
    let ran = finish(doctor);
    assert!(
        ran.found("sentinels") == ["problem"]
            && ran.out.contains("does not know the primary's name"),
        "{}",
        ran.out
    );
}

/// A server with a TLS port, and a folder with its certificate and `ca.pem`, the authority's.
fn encrypted() -> (Server, u16, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(file("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    std::fs::write(file("server.pem"), certificate.pem()).unwrap();
    std::fs::write(file("server.key"), key.serialize_pem()).unwrap();
    let mut port = 0;
    let server = Server::start_by(None, || {
        port = free_port();
        let arguments = [
            ["--tls-port", &port.to_string()],
            ["--tls-cert-file", &file("server.pem")],
            ["--tls-key-file", &file("server.key")],
            ["--tls-ca-cert-file", &file("ca.pem")],
            ["--tls-auth-clients", "no"],
        ];
        arguments
            .as_flattened()
            .iter()
            .map(ToString::to_string)
            .collect()
    });
    (server, port, folder)
}

#[test]
fn all_connections_are_encrypted_if_the_url_says_so() {
    let (server, port, folder) = encrypted();
    let ca = folder.path().join("ca.pem").display().to_string();
    let url = format!("rediss://127.0.0.1:{port}/");
    let ran = run(&["doctor", &url, "--ca", &ca, "--json"]);
    assert_eq!(
        (
            ran.code,
            ran.found("connect").len(),
            ran.found("store").len()
        ),
        (0, 0, 0),
        "{ran:?}"
    );
    assert!(ran.out.contains("\"TLS\""), "{}", ran.out);
    assert_eq!(run(&["stats", &url, "--ca", &ca]).code, 0);
    let mut watch = command(&["watch", &url, "--ca", &ca, "--enable"])
        .spawn()
        .unwrap();
    until("it listens", || {
        server.ask::<u64>(&["PUBSUB", "NUMPAT"]) == 1
    });
    watch.kill().unwrap();
    watch.wait().unwrap();
    let untrusted = run(&["stats", &url]);
    assert!(
        untrusted.code == 3 && untrusted.err.contains("tls.ca"),
        "{untrusted:?}"
    );
}
