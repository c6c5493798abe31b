// The camera: JPEG pictures to the service as fast as it grants credits, segments back onto a rolling timeline.
import { Problem } from "./api.js";
import { make, mark, template, wait } from "./dom.js";
import { address, models } from "./models.js";
import { tell } from "./problems.js";
import { describe, mount } from "./timeline.js";

const WIDTH = 480, FPS = 25, WINDOW = 30, KEPT = 600, LEAST = 0.3, DELAY_S = 20; // pixels, pictures a second, seconds shown, seconds kept, score, seconds

/** The bytes of a frame: its time in microseconds (big-endian, 8 bytes), then the JPEG. */
export async function frameBytes(seconds, jpeg) {
  const bytes = new Uint8Array(8 + jpeg.size);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(Math.round(seconds * 1e6)));
  bytes.set(new Uint8Array(await jpeg.arrayBuffer()), 8);
  return bytes;
}

export function live(main) {
  const page = template("live");
  main.append(page.root);
  const view = mount(page.timeline, { duration: WINDOW, tracks: [{ name: "steps", segments: [] }] });
  let session = null, offered = [];

  models().then((answer) => {
    offered = answer.models;
    page.model.append(...offered.map((model) => make("option", { value: address(model), selected: [model.name, address(model)].includes(answer.default) }, model.name)));
    page.start.disabled = false;
  }).catch((problem) => tell(page.problem, problem));

  async function begin() {
    tell(page.problem, null);
    page.start.disabled = true;
    let camera;
    try {
      // Only secure pages have mediaDevices at all.
      if (!navigator.mediaDevices) throw new DOMException("", "SecurityError");
      camera = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, frameRate: { ideal: FPS } }, audio: false });
    } catch (error) {
      page.told.textContent = {
        NotAllowedError: "The camera is not allowed. Allow it for this page in the browser, then start again.",
        NotFoundError: "There is no camera on this device.",
        SecurityError: "Browsers give the camera to secure pages only: open this page over https, or on the service's own machine.",
      }[error.name] ?? "The camera cannot be used. Another program may have it.";
      page.start.disabled = false;
      return;
    }
    page.video.srcObject = camera;
    await page.video.play();
    const model = offered.find((one) => address(one) === page.model.value);
    session = stream(camera, model);
    page.start.hidden = true;
    page.start.disabled = false;
    page.stop.hidden = false;
    page.model.disabled = true;
  }

  function stream(camera, model) {
    const classes = describe([...model.labels].sort()), segments = new Map(), began = performance.now();
    const canvas = document.createElement("canvas"), drawing = canvas.getContext("2d");
    canvas.width = WIDTH;
    canvas.height = 2 * Math.round((WIDTH * page.video.videoHeight) / page.video.videoWidth / 2);
    page.legend.replaceChildren(...[...classes].map(([label, look]) => make("span", {}, mark(look), make("span", {}, label))));
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/live`);
    let credits = 0, last = -1, busy = false, ended = false, delay = null, lost = 0, refused = false;
    const now = () => (performance.now() - began) / 1000;

    socket.addEventListener("open", () => socket.send(JSON.stringify({ type: "hello", model: address(model), width: canvas.width, height: canvas.height, fps: FPS, min_score: LEAST, delay_s: DELAY_S })));
    const hear = {
      ready: (message) => { credits = message.credits; delay = message.delay_s; },
      credit: ({ n }) => { credits += n; },
      segment: (segment) => {
        if (segment.state === "withdrawn") segments.delete(segment.id);
        else segments.set(segment.id, segment);
      },
      dropped: ({ count }) => { lost += count; },
      error: (said) => {
        refused = true;
        tell(page.problem, new Problem(said.status, said.problem.split(":").at(-1), said));
      },
      done: () => end(),
    };
    socket.addEventListener("message", ({ data }) => {
      const message = JSON.parse(data);
      hear[message.type]?.(message);
    });
    socket.addEventListener("close", ({ code }) => {
      if (!ended && !refused && code !== 1000) tell(page.problem, new Problem(0, "offline"));
      end();
    });

    async function shoot() {
      if (ended) return;
      page.video.requestVideoFrameCallback ? page.video.requestVideoFrameCallback(shoot) : requestAnimationFrame(shoot);
      const t = now();
      if (!credits || busy || t - last < 0.9 / FPS || socket.readyState !== WebSocket.OPEN) return;
      [busy, last] = [true, t];
      credits--;
      drawing.drawImage(page.video, 0, 0, canvas.width, canvas.height);
      const jpeg = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.8));
      const bytes = await frameBytes(t, jpeg);
      if (socket.readyState === WebSocket.OPEN) socket.send(bytes);
      busy = false;
    }
    shoot();

    const drawn = setInterval(() => {
      const t = now();
      for (const [id, segment] of segments) if (segment.end < t - KEPT) segments.delete(id);
      view.update({ duration: Math.max(t, WINDOW), classes, tracks: [{ name: model.name, segments: [...segments.values()] }] });
      view.zoom(t - WINDOW, Math.max(t, WINDOW));
      view.setTime(t);
      const late = lost ? ` ${lost} pictures were left out.` : "";
      page.told.textContent = delay === null ? "Connecting …" : `Live. A step is final ${delay < 10 ? `about ${delay.toFixed(1)} s` : wait(delay)} after it ends.${late}`;
    }, 250);

    function end() {
      if (ended) return;
      ended = true;
      clearInterval(drawn);
      for (const track of camera.getTracks()) track.stop();
      socket.close();
      session = null;
      page.start.hidden = false;
      page.stop.hidden = true;
      page.model.disabled = false;
      page.told.textContent = `Ended. ${segments.size} steps seen.`;
      // All that was seen, to look at in peace.
      view.zoom(0, Math.max(now(), WINDOW));
    }
    return {
      // The last steps become final when the service knows that nothing follows; it says `done` then.
      stop() {
        credits = -Infinity;
        if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "end" }));
        else end();
      },
      end,
    };
  }

  page.form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!session && offered.length) begin();
  });
  page.stop.addEventListener("click", () => session?.stop());
  return () => {
    session?.end();
    view.destroy();
  };
}
