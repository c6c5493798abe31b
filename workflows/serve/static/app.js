// The page: which view the address names, signing in, the keys' dialog.
import { call, onSignIn } from "./api.js";
import { home } from "./home.js";
import { live } from "./live.js";
import { jobView, videoView } from "./video.js";

const main = document.getElementById("main"), leave = document.getElementById("leave");
let release = null;

function show() {
  const [, name, id] = location.hash.match(/^#\/(\w*)\/?([0-9a-f]*)$/) ?? [];
  if (release) main.focus(); // those who hear the page begin at its new content
  release?.();
  main.replaceChildren();
  document.title = "balletal";
  for (const link of document.querySelectorAll(".top nav a")) {
    if (link.hash === `#/${name === "live" ? name : ""}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  release = name === "videos" && id ? videoView(main, id) : name === "jobs" && id ? jobView(main, id) : name === "live" ? live(main) : home(main);
  window.scrollTo(0, 0);
}

// One dialog, however many requests find that they need it.
let asking = null;
onSignIn(() => {
  asking ??= ask().finally(() => { asking = null; });
  return asking;
});
function ask() {
  const dialog = document.getElementById("signin"), form = dialog.querySelector("form"), wrong = dialog.querySelector(".wrong");
  wrong.textContent = "";
  form.reset();
  dialog.oncancel = (event) => event.preventDefault(); // nothing behind it works without
  dialog.showModal();
  return new Promise((resolve) => {
    form.onsubmit = async (event) => {
      event.preventDefault();
      try {
        await call("/v1/session", { method: "POST", json: { token: form.elements.token.value.trim() } });
      } catch (problem) {
        wrong.textContent = problem.status === 401 ? "The service does not know this token." : "The service could not be asked. Try again.";
        return;
      }
      localStorage.setItem("balletal.signed", "yes");
      leave.hidden = false;
      form.reset();
      dialog.close();
      resolve();
    };
  });
}
leave.hidden = !localStorage.getItem("balletal.signed");
leave.addEventListener("click", async () => {
  await call("/v1/session", { method: "DELETE" }).catch(() => {});
  localStorage.removeItem("balletal.signed");
  location.hash = "#/";
  location.reload();
});

window.addEventListener("hashchange", show);
show();
