// The token that a shared session asks for: comes behind the "#" of the link, which no server sees or logs.

const KEY = "understudy-token";

/** Takes it out of the address bar; this tab remembers it, so that loading the page again works. */
export function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B")).get("token");
  if (found !== null) {
    sessionStorage.setItem(KEY, found);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY) ?? "";
}
