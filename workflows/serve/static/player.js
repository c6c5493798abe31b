// The video and its controls: exact seeks, frame steps, speeds, and a stretch that repeats.
export const SPEEDS = [0.1, 0.25, 0.5, 0.75, 1, 1.5, 2];

/** A player on a <video> of `fps` frames a second; `onTime(seconds)` hears of every frame shown. */
export function player(video, { fps, onTime }) {
  let range = null, stopped = false;
  const clamp = (t) => Math.min(Math.max(t, 0), Number.isFinite(video.duration) ? video.duration : t);

  function shown() {
    if (range && (video.currentTime >= range[1] || video.currentTime < range[0] - 0.1)) {
      if (!video.paused) video.currentTime = range[0];
    }
    onTime(video.currentTime);
  }
  // The callback comes with each frame, timeupdate four times a second: also where frames stand still.
  function each() {
    if (stopped) return;
    shown();
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(each);
    else requestAnimationFrame(each);
  }
  each();
  for (const name of ["timeupdate", "seeking", "seeked", "pause"]) video.addEventListener(name, shown);
  video.addEventListener("ended", () => { if (range) { video.currentTime = range[0]; video.play(); } });

  return {
    seek(t) { video.currentTime = clamp(t); },
    toggle() {
      if (!video.paused) return video.pause();
      return video.play().catch(() => {}); // refused or not loaded: the error event tells
    },
    /** To the middle of a frame, so that rounding cannot show its neighbour. */
    frame(n) {
      video.pause();
      video.currentTime = clamp((Math.floor(video.currentTime * fps + 1e-3) + n + 0.5) / fps);
    },
    /** Repeat from start to end; null ends it. */
    repeat(start, end) {
      range = start === null ? null : [start, end];
      if (range) {
        video.currentTime = start;
        video.play().catch(() => {});
      }
    },
    get repeating() { return range; },
    get time() { return video.currentTime; },
    set speed(rate) { video.playbackRate = rate; },
    get speed() { return video.playbackRate; },
    destroy() {
      stopped = true;
      video.pause();
      video.removeAttribute("src");
      video.load();
    },
  };
}
