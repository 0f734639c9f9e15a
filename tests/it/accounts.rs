//! Accounts, as the shop has them: devices, a new password, and the way back after a sign-in.

use std::collections::BTreeMap;
use std::pin::Pin;

use rand::seq::SliceRandom as _;
use redis::Commands as _;
use reqwest::StatusCode;
use sessile::Handle;

use crate::support::customer::{Customer, PHONE};
use crate::support::{Ground, Node, until};

/// Two shops on one Redis.
struct Shops {
    nodes: [Node; 2],
    ground: Ground,
    user: String,
}

impl Shops {
    fn open() -> Self {
        let ground = Ground::new();
        let environment = [("REDIS_URL", &*ground.url()), ("REDIS_TIMEOUT", "60")];
        let nodes = [(); 2].map(|()| Node::example("shop", &environment));
        // Tests may share the server.
        let user = format!("mia-{}", Handle::random());
        Self {
            nodes,
            ground,
            user,
        }
    }

    fn customer(&self) -> Customer {
        Customer::of(&self.nodes)
    }

    fn sign_in_form(&self, password: &str) -> String {
        format!("user={}&password={password}", self.user)
    }

    async fn signed_in(&self, shop: usize) -> Customer {
        let mut customer = self.customer();
        customer.page(shop, "/sign-in").await;
        let form = self.sign_in_form("tulip");
        customer.post(shop, "/sign-in", &form).await;
        // The page has a token of the session that the login has rotated.
        customer.page(shop, "/").await;
        customer
    }

    fn password_hash(&self) -> Option<String> {
        let mut redis = self.ground.connection();
        redis.hget("shop:passwords", &self.user).unwrap()
    }

    /// The sessions in Redis that the user is signed in to.
    fn stored(&self) -> usize {
        let mut redis = self.ground.connection();
        let keys: Vec<String> = redis
            .scan_match("sessile:*")
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let is_of_user = |key: &&String| {
            // Other keys, such as those of indexes, are no strings.
            let record: String = redis.get(*key).unwrap_or_default();
            record.contains(&format!("\"principal\":\"{}\"", self.user))
        };
        keys.iter().filter(is_of_user).count()
    }
}

fn devices(page: &str) -> usize {
    page.matches("<li>").count()
}

/// The handles of the devices that the page offers to end.
fn others(page: &str) -> Vec<String> {
    let buttons = page.split("name=device value=").skip(1);
    buttons.map(|it| it[..22].to_owned()).collect()
}

async fn is_signed_in(customer: &mut Customer, shop: usize) -> bool {
    let page = customer.visit(shop, "/account").await;
    match page.status {
        StatusCode::OK => true,
        StatusCode::SEE_OTHER => {
            assert_eq!(page.location.as_deref(), Some("/sign-in?next=%2Faccount"));
            false
        }
        // For ten seconds after a rotation, the replaced token is not taken for that of an anonymous visitor.
        StatusCode::CONFLICT => false,
        status => panic!("{status}: {}", page.text),
    }
}

#[tokio::test]
async fn a_user_sees_their_devices_and_signs_them_out() {
    let shops = Shops::open();
    let mut laptop = shops.signed_in(0).await;
    let mut other = shops.signed_in(1).await;
    let mut phone = shops.customer().with(PHONE);
    phone.page(1, "/sign-in").await;
    let form = shops.sign_in_form("tulip");
    phone.post(1, "/sign-in", &form).await;
    let page = phone.page(1, "/account").await;
    assert_eq!((devices(&page), others(&page).len()), (3, 2), "{page}");
    let here = "<strong>Safari on iOS, phone</strong><span class=here>this one</span>";
    assert!(page.contains(here), "{page}");
    assert_eq!(
        page.matches("<strong>Chrome on Linux, desktop</strong></p>")
            .count(),
        2,
        "{page}"
    );
    assert!(page.contains("network 127.0.0.0/24"), "{page}");

    let page = laptop.page(0, "/account").await;
    let (_, after_the_phone) = page.split_once("Safari on iOS").expect("the phone");
    let form = format!("device={}", others(after_the_phone)[0]);
    laptop.post(0, "/account/end", &form).await;
    assert!(!is_signed_in(&mut phone, 1).await);
    assert!(is_signed_in(&mut other, 1).await);
    let page = laptop.page(0, "/account").await;
    assert!(
        page.contains("The device is signed out.") && devices(&page) == 2,
        "{page}"
    );
    // Once more, a device of nobody, and a text that is none.
    for device in [&form, "device=AAAAAAAAAAAAAAAAAAAAAA", "device=%3Cb%3E"] {
        laptop.post(0, "/account/end", device).await;
        let page = laptop.page(0, "/account").await;
        assert!(
            page.contains("not signed in any more") && devices(&page) == 2,
            "{page}"
        );
    }

    laptop.post(1, "/account/end-others", "").await;
    let page = laptop.page(1, "/account").await;
    assert!(
        page.contains("Devices that were signed out: 1.") && devices(&page) == 1,
        "{page}"
    );
    assert!(!is_signed_in(&mut other, 0).await);
    assert_eq!(shops.stored(), 1);
}

#[tokio::test]
async fn a_new_password_needs_the_old_one_and_holds_in_every_shop() {
    let shops = Shops::open();
    let mut laptop = shops.signed_in(0).await;
    let mut phone = shops.signed_in(1).await;
    laptop.page(0, "/account").await;
    for (form, notice) in [
        ("old=rose&new=crocus-2026", "The old password is wrong."),
        ("old=tulip&new=crocus", "8 characters or more"),
    ] {
        laptop.post(0, "/account/password", form).await;
        let page = laptop.page(0, "/account").await;
        assert!(page.contains(notice) && devices(&page) == 2, "{page}");
    }
    let before = laptop.cookie.clone();
    laptop
        .post(0, "/account/password", "old=tulip&new=crocus-2026")
        .await;
    assert_ne!(laptop.cookie, before, "the session that stays is rotated");
    let page = laptop.page(1, "/account").await;
    assert!(
        page.contains("Your password is changed.") && devices(&page) == 1,
        "{page}"
    );
    assert!(!is_signed_in(&mut phone, 0).await);

    phone.page(1, "/sign-in?next=/cart").await;
    let old = format!("{}&next=/cart", shops.sign_in_form("tulip"));
    assert_eq!(
        phone.post(1, "/sign-in", &old).await,
        "/sign-in?next=%2Fcart"
    );
    let page = phone.page(1, "/sign-in").await;
    assert!(page.contains("Name or password is wrong."), "{page}");
    let new = format!("{}&next=/cart", shops.sign_in_form("crocus-2026"));
    assert_eq!(phone.post(1, "/sign-in", &new).await, "/cart");
    assert!(is_signed_in(&mut phone, 0).await);
}

#[tokio::test]
async fn after_the_sign_in_a_visitor_gets_the_account_and_never_another_site() {
    let shops = Shops::open();
    let mut visitor = shops.customer();
    let page = visitor.visit(0, "/account").await;
    let to = page.location.expect("the sign-in page");
    let page = visitor.page(0, &to).await;
    assert!(page.contains("name=next value=\"/account\""), "{page}");
    let page = visitor.page(0, "/sign-in?next=https://evil.example").await;
    assert!(page.contains("name=next value=\"\""), "{page}");
    for (next, expected) in [("//evil.example", "/"), ("/account", "/account")] {
        let form = format!("{}&next={next}", shops.sign_in_form("tulip"));
        assert_eq!(visitor.post(0, "/sign-in", &form).await, expected);
        visitor.page(0, "/sign-in").await;
    }
}

#[tokio::test]
async fn a_form_without_the_token_of_its_page_changes_nothing() {
    let shops = Shops::open();
    let mut customer = shops.signed_in(0).await;
    let mut stale = shops.customer();
    stale.cookie = customer.cookie.clone();
    for path in [
        "/cart/add",
        "/cart/remove",
        "/order",
        "/sign-in",
        "/sign-out",
        "/account/end",
        "/account/end-others",
        "/account/password",
    ] {
        let page = stale.send_form(1, path, "article=0").await;
        assert_eq!(page.status, 403, "{path}");
        assert!(
            page.text.contains("<h1>Please try again</h1>"),
            "{}",
            page.text
        );
    }
    assert!(is_signed_in(&mut customer, 0).await);
    assert!(customer.page(0, "/").await.contains("Cart (0)"));
}

/// Changes the password while requests and sign-ins with the old one are in flight, and returns how these were answered.
async fn one_new_password(shops: &Shops, old: &str, new: &str) -> BTreeMap<String, u32> {
    let mut here = shops.customer();
    here.page(0, "/sign-in").await;
    here.post(0, "/sign-in", &shops.sign_in_form(old)).await;
    here.page(0, "/account").await;
    let mut browsers = Vec::new();
    for number in 0..4 {
        let mut browser = shops.customer();
        browser.page(number % 2, "/sign-in").await;
        browser
            .post(number % 2, "/sign-in", &shops.sign_in_form(old))
            .await;
        browser.page(number % 2, "/").await;
        browsers.push(browser);
    }
    let mut visitors = Vec::new();
    for number in 0..10 {
        let mut visitor = shops.customer();
        visitor.page(number % 2, "/sign-in").await;
        visitors.push(visitor);
    }

    let mut others = Vec::new();
    for number in 0..50 {
        // Every fifth one is of the browser that changes the password.
        let mut browser = browsers.get(number % 5).unwrap_or(&here).clone();
        others.push(Box::pin(async move {
            let page = match number % 3 {
                0 => browser.visit(number % 2, "/").await,
                1 => {
                    browser
                        .send_form(number % 2, "/cart/add", "article=1")
                        .await
                }
                _ => browser.visit(number % 2, "/account").await,
            };
            ("request", page, browser)
        }) as Pin<Box<dyn Future<Output = _> + Send>>);
    }
    for (number, mut visitor) in visitors.into_iter().enumerate() {
        let form = shops.sign_in_form(old);
        others.push(Box::pin(async move {
            let page = visitor.send_form(number % 2, "/sign-in", &form).await;
            ("sign-in", page, visitor)
        }));
    }
    others.shuffle(&mut rand::rng());
    // Some are there before the new password, and the others while the sessions of the old one end.
    let late = others.split_off(rand::random_range(10..50));
    let mut others: Vec<_> = others.into_iter().map(tokio::spawn).collect();
    let form = format!("old={old}&new={new}");
    let hash = shops.password_hash();
    let changed = tokio::spawn(async move {
        here.post(0, "/account/password", &form).await;
        here
    });
    until("the new password", async || shops.password_hash() != hash).await;
    others.extend(late.into_iter().map(tokio::spawn));
    let mut here = changed.await.unwrap();

    let mut answers = BTreeMap::new();
    for other in others {
        let (what, page, browser) = other.await.unwrap();
        if page.status == StatusCode::CONFLICT && what == "sign-in" {
            assert!(
                page.text.contains("<h1>Please sign in again</h1>"),
                "{}",
                page.text
            );
        }
        let expected = [200, 303, 403, 409].map(|it| StatusCode::from_u16(it).unwrap());
        assert!(
            expected.contains(&page.status),
            "{what}: {} {}",
            page.status,
            page.text
        );
        let to = page.location.unwrap_or_default();
        *answers
            .entry(format!("{what} {} {to}", page.status))
            .or_default() += 1;
        browsers.push(browser);
    }
    for (shop, mut browser) in browsers.into_iter().enumerate() {
        // A request of the browser that stays has its cookie of before, which is no longer valid.
        assert!(!is_signed_in(&mut browser, shop % 2).await, "{answers:?}");
    }
    for shop in 0..2 {
        assert_eq!(
            devices(&here.page(shop, "/account").await),
            1,
            "{answers:?}"
        );
    }
    assert_eq!(shops.stored(), 1, "{answers:?}");
    answers
}

#[tokio::test]
async fn exactly_one_session_outlives_a_new_password_whatever_is_in_flight() {
    let shops = Shops::open();
    let passwords = [
        "tulip", "crocus-1", "crocus-2", "crocus-3", "crocus-4", "crocus-5",
    ];
    for pair in passwords.windows(2) {
        println!("{:?}", one_new_password(&shops, pair[0], pair[1]).await);
    }
}
