// The page's words in two languages, and how numbers are said. Nothing here touches the page's state.

const WORDS = {
  en: {
    skip: "Skip to content", tagline: "Smoother video at any rate", offline: "Connection lost; trying again", theme: "Light or dark",
    add: "Add a film", drop: "Drop a video here, or choose one", dropSub: "It stays on this server and is deleted after a while.",
    step1: "Choose how smooth", step1Sub: "any rate, or slow motion; sound, subtitles and colour are kept", step2: "Look at a few seconds", step2Sub: "before and after, beside each other, frame by frame", step3: "Make the whole film", step3Sub: "it goes on where it was after any interruption",
    byPath: "Use a film that is already on the server", pathLabel: "Path under an allowed folder", use: "Use",
    queue: "Queue and results", films: "Films on the server", tokenTitle: "This server asks for its token", token: "Token",
    tokenWrong: "This is not the server's token.", open: "Open", close: "Close", uploading: "Uploading {name}", stopUpload: "Stop",
    uploadWaits: "Connection lost at {size}; going on as soon as it is back", looking: "Looking at {name} …", remove: "Remove",
    size: "Picture", rate: "Rate", length: "Length", frames: "Frames", codec: "Codec", colour: "Colour", file: "File", streams: "Also in the file",
    audio: "sound", subtitle: "subtitles", attachment: "attachment", data: "data", video: "video", fps: "{n} fps", vfr: "variable rate", interlaced: "interlaced", rotated: "turned by {n}°",
    rateTitle: "How smooth?", slow: "Slow motion {n}×", slowGroup: "Slow motion", predictFrames: "Frames", predictRate: "Rate and length", predictSize: "Size, about", predictTime: "Time, about",
    unknownTime: "after a preview", basisFilm: "Size and time reckoned from your runs of this film.", basisOther: "Size and time reckoned from runs of other films; a preview says it better.", basisNothing: "Nothing has been run here yet: the size is a guess, and a preview tells the time.",
    options: "More options", cuts: "Cuts", cutsAuto: "find and keep clean", cutsOff: "there are none", dedup: "Repeated pictures", dedupOff: "keep them", dedupAuto: "make them move (animation)",
    overlays: "Logos and subtitles", staticAuto: "keep them still", staticOff: "treat as the rest", model: "Model", quality: "Quality", finest: "finest", fine: "fine", small: "smaller file", format: "Format", formatAuto: "automatic", container: "Container",
    keepSound: "Keep sound", slowSound: "Slow the sound down too", paintMask: "Paint a mask …", useMask: "Use the painted mask",
    previewTitle: "Look at a few seconds first", previewAt: "Start of the preview", previewLength: "Length of the preview", seconds: "{n} s", preview: "Preview", whole: "Make the whole film", copy: "Copy as a command …",
    copyTitle: "The same run elsewhere", commandLine: "Command line", python: "Python", copyIt: "Copy", copied: "Copied", maskNote: "Save the painted mask beside the film as {name}.", downloadMask: "Download the mask",
    queued: "waiting", queuedAt: "waiting, place {n}", running: "running", paused: "paused", done: "done", failed: "failed", cancelled: "cancelled", pausing: "pausing", cancelling: "cancelling", comparison: "preparing the comparison", joining: "putting together", starting: "starting",
    pause: "Pause", resume: "Resume", cancel: "Cancel", retry: "Try again", view: "Compare", download: "Download", previewKind: "preview", fullKind: "whole film", left: "{t} left", ofFrames: "{a} of {b} frames", took: "took {t}",
    inSeconds: "{s} s", inMinutes: "{m} min {s} s", inHours: "{h} h {m} min",
    before: "before, {r} fps", after: "after, {r} fps", slider: "Slider", side: "Side by side", difference: "Difference ×3", afterOnly: "After", play: "Play", pausePlay: "Pause", back: "Back one frame", forward: "Forward one frame", quarter: "¼ speed", half: "½ speed", normal: "1×", sliderLabel: "Border between before and after", seek: "Position",
    frameOf: "frame {a} of {b}", nCuts: "Cuts: {n}", nHolds: "Held stretches: {n}", nDups: "Repeated stretches: {n}", nDoubts: "Least certain: {n}", doubtsHelp: "Made pictures that their neighbours bear out least, the worst first", doubtOf: "Least certain {a} of {b}", certain: "{n} % certain", nothingMarked: "Nothing to mark: no cuts, no held, repeated or doubtful pictures", keys: "<space> play · <,> <.> one frame · <[> <]> marks · <d> least certain · <q> speed · <1>–<4> views",
    maskTitle: "Paint what must stay still", maskHelp: "Painted parts come from the nearest source frame: logos, subtitles, a clock. Drag to paint, or use the buttons.", brush: "Brush", paint: "Paint", erase: "Erase", clear: "Clear", save: "Save", topLeft: "Top left", topRight: "Top right", bottomLeft: "Bottom left", bottomRight: "Bottom right", bottomStrip: "Subtitle strip", noMask: "Remove the mask", maskSaved: "Mask saved",
    saidDone: "{name} is done", saidFailed: "{name} failed: {why}", saidReady: "{name} can be used", cannotPlay: "This browser cannot play the comparison; download the result instead.", warnings: "Notes", notReady: "This film cannot be used", noPicture: "no picture",
  },
  zh: {
    skip: "跳到正文", tagline: "让视频在任意帧率下更流畅", offline: "连接已断开，正在重试", theme: "浅色或深色",
    add: "添加影片", drop: "把视频拖到这里，或点击选择", dropSub: "文件只保存在本服务器上，过一段时间会自动删除。",
    step1: "选择流畅程度", step1Sub: "任意帧率或慢动作；声音、字幕和颜色都会保留", step2: "先看几秒", step2Sub: "处理前后并列，逐帧比较", step3: "生成整部影片", step3Sub: "任何中断之后都会从中断处继续",
    byPath: "使用服务器上已有的影片", pathLabel: "允许目录下的路径", use: "使用",
    queue: "队列与结果", films: "服务器上的影片", tokenTitle: "此服务器需要令牌", token: "令牌",
    tokenWrong: "令牌不正确。", open: "打开", close: "关闭", uploading: "正在上传 {name}", stopUpload: "停止",
    uploadWaits: "连接在 {size} 处中断；恢复后会继续", looking: "正在分析 {name} …", remove: "移除",
    size: "画面", rate: "帧率", length: "时长", frames: "帧数", codec: "编码", colour: "颜色", file: "文件", streams: "文件中还有",
    audio: "声音", subtitle: "字幕", attachment: "附件", data: "数据", video: "视频", fps: "{n} 帧/秒", vfr: "可变帧率", interlaced: "隔行", rotated: "旋转 {n}°",
    rateTitle: "要多流畅？", slow: "慢动作 {n}×", slowGroup: "慢动作", predictFrames: "帧数", predictRate: "帧率与时长", predictSize: "大小（约）", predictTime: "用时（约）",
    unknownTime: "预览后可知", basisFilm: "大小和用时根据本片之前的运行估算。", basisOther: "大小和用时根据其他影片的运行估算；先预览会更准确。", basisNothing: "这里还没有运行过任何任务：大小只是猜测，预览后可知用时。",
    options: "更多选项", cuts: "镜头切换", cutsAuto: "自动检测，不混合", cutsOff: "没有切换", dedup: "重复画面", dedupOff: "保留", dedupAuto: "补成真实运动（动画）",
    overlays: "台标与字幕", staticAuto: "保持静止", staticOff: "与其他部分同样处理", model: "模型", quality: "质量", finest: "最高", fine: "高", small: "文件更小", format: "格式", formatAuto: "自动", container: "封装",
    keepSound: "保留声音", slowSound: "声音一起放慢", paintMask: "涂抹遮罩 …", useMask: "使用涂好的遮罩",
    previewTitle: "先看几秒", previewAt: "预览起点", previewLength: "预览长度", seconds: "{n} 秒", preview: "预览", whole: "生成整部影片", copy: "复制为命令 …",
    copyTitle: "在别处执行同样的任务", commandLine: "命令行", python: "Python", copyIt: "复制", copied: "已复制", maskNote: "把涂好的遮罩存为影片旁边的 {name}。", downloadMask: "下载遮罩",
    queued: "等待中", queuedAt: "等待中，第 {n} 位", running: "运行中", paused: "已暂停", done: "完成", failed: "失败", cancelled: "已取消", pausing: "正在暂停", cancelling: "正在取消", comparison: "正在准备对比", joining: "正在合成", starting: "正在启动",
    pause: "暂停", resume: "继续", cancel: "取消", retry: "重试", view: "对比", download: "下载", previewKind: "预览", fullKind: "整部影片", left: "还剩 {t}", ofFrames: "{a} / {b} 帧", took: "用时 {t}",
    inSeconds: "{s} 秒", inMinutes: "{m} 分 {s} 秒", inHours: "{h} 小时 {m} 分",
    before: "之前，{r} 帧/秒", after: "之后，{r} 帧/秒", slider: "滑块", side: "并排", difference: "差异 ×3", afterOnly: "之后", play: "播放", pausePlay: "暂停", back: "后退一帧", forward: "前进一帧", quarter: "¼ 速", half: "½ 速", normal: "1×", sliderLabel: "之前与之后的分界", seek: "位置",
    frameOf: "第 {a} 帧，共 {b} 帧", nCuts: "{n} 处切换", nHolds: "{n} 段停留", nDups: "{n} 段重复", nDoubts: "最不确定：{n} 处", doubtsHelp: "与前后原始帧最不吻合的新画面，从最差的开始", doubtOf: "最不确定第 {a} 处，共 {b} 处", certain: "可信度 {n}%", nothingMarked: "没有需要标记的：无切换、停留、重复或存疑画面", keys: "<空格> 播放 · <,> <.> 单帧 · <[> <]> 标记 · <d> 最不确定 · <q> 速度 · <1>–<4> 视图",
    maskTitle: "涂出必须保持静止的部分", maskHelp: "涂过的部分取自最近的原始帧：台标、字幕、时钟。拖动涂抹，或使用按钮。", brush: "画笔", paint: "涂抹", erase: "擦除", clear: "清空", save: "保存", topLeft: "左上", topRight: "右上", bottomLeft: "左下", bottomRight: "右下", bottomStrip: "字幕区", noMask: "去掉遮罩", maskSaved: "遮罩已保存",
    saidDone: "{name} 已完成", saidFailed: "{name} 失败：{why}", saidReady: "{name} 可以使用了", cannotPlay: "此浏览器无法播放对比；请下载结果。", warnings: "说明", notReady: "无法使用这部影片", noPicture: "无画面",
    error: {
      unreadable: "无法读取这个文件：它不是视频，或已损坏。", unsupported: "不支持这种编码或封装。", too_large: "文件太大。", too_many_pixels: "画面太大。",
      too_long: "影片太长。", too_slow: "分析这个文件花的时间太长。", too_many_frames: "帧数太多。", too_many_jobs: "未完成的任务太多；请等待或取消一些。", too_many_uploads: "未完成的上传太多。",
      no_room: "服务器上没有足够的空间。", forbidden: "这个路径不在允许的目录中。", worker_died: "处理进程两次中途退出。", source_gone: "原影片已被移除。", conflict: "现在不能这样做。", invalid: "这个选择无法执行。", not_found: "已不存在。", busy: "服务器正忙，请稍候。",
    },
  },
};

let language = "en";

export function setLanguage(wanted) {
  language = WORDS[wanted] ? wanted : "en";
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const [attribute, set] of [["t", (e, w) => { e.textContent = w; }], ["tLabel", (e, w) => e.setAttribute("aria-label", w)], ["tPlace", (e, w) => { e.placeholder = w; }]]) {
    const name = attribute.replace(/[A-Z]/g, (c) => "-" + c.toLowerCase());
    for (const element of document.querySelectorAll(`[data-${name}]`)) set(element, t(element.dataset[attribute]));
  }
}
export const getLanguage = () => language;

export function t(key, values = {}) {
  const text = WORDS[language][key] ?? WORDS.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

// A server's message is English; in Chinese its code is said, with the message behind it.
export function errorText(error) {
  const own = WORDS[language].error?.[error.code];
  return own ? `${own}（${error.message}）` : error.message.charAt(0).toUpperCase() + error.message.slice(1);
}

export function number(n, digits = 0) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(n);
}

export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 999.5 && i < units.length - 1) { n /= 1000; i += 1; }
  return `${number(n, n < 10 && i ? 1 : 0)} ${units[i]}`;
}

export function duration(seconds) {
  const two = (n) => String(n).padStart(2, "0");
  if (seconds < 59.5) return t("inSeconds", { s: number(seconds, seconds < 10 ? 1 : 0) });
  const whole = Math.round(seconds), m = Math.floor(whole / 60) % 60;
  if (whole < 3600) return t("inMinutes", { m, s: two(whole % 60) });
  return t("inHours", { h: Math.floor(whole / 3600), m: two(m) });
}

export function clock(seconds) {
  const m = Math.floor(seconds / 60);
  return `${m}:${(seconds - m * 60).toFixed(2).padStart(5, "0")}`;
}

// "24000/1001" -> 23.976
export function rateValue(text) {
  const [a, b] = String(text).split("/").map(Number);
  return a / (b || 1);
}
export const rateText = (text) => number(rateValue(text), 3);
