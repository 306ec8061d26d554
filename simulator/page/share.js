// The link for viewers: this page, with "?view".

import { byId } from "./element.js";
import { note } from "./notes.js";

export async function share(token) {
  const link = new URL(location.pathname, location.origin);
  link.search = "view";
  if (token) link.hash = new URLSearchParams({ token });
  try {
    await navigator.clipboard.writeText(link.href);
    note("Link for viewers copied");
  } catch {
    // No clipboard over plain http, or not allowed: show it instead.
    byId("share-link").value = link.href;
    byId("share-dialog").showModal();
    byId("share-link").select();
  }
}
