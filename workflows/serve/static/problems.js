// A problem as the user sees it.
import { explain } from "./api.js";
import { template } from "./dom.js";

/** Show a problem in `place`; null clears it. */
export function tell(place, problem) {
  if (problem === null) return place.replaceChildren();
  const { title, advice, details } = explain(problem);
  const parts = template("problem");
  parts.title.textContent = title;
  parts.advice.textContent = advice;
  parts.details.textContent = details;
  parts.more.hidden = !details;
  place.replaceChildren(parts.root);
}

/** Tell it to those who listen to the page. */
export function say(text) {
  document.getElementById("said").textContent = text;
}
