// A browser starts no worker from a page on the disk. There the search runs in a hidden frame of the page instead, which
// shares the page's origin, so that messages are plain events.
if (location.protocol === "file:") {
  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.addEventListener("load", () => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      });
      this.frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.frame.srcdoc =
        "<script>self.postMessage = (data) => frameElement.answer(data);</script>" +
        `<script src="${encodeURI(decodeURI(new URL(url, location.href).href))}"></script>`;
      document.body.append(this.frame);
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {
      this.frame.remove();
    }
  }
  // The theme's search looks for the second name to find out that it runs in a frame.
  window.Worker = window.IFrameWorker = FrameWorker;
}
