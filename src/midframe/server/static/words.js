// The page's texts in two languages, and how numbers are written. Nothing here touches the page's state.

const WORDS = {
  en: {
    skip: "Skip to content", tagline: "Video frame interpolation", offline: "Connection lost; trying again", theme: "Light or dark",
    add: "Add a video", drop: "Drop videos here, or choose them", dropSub: "They stay on this server and are deleted after a while.", dropAnywhere: "Drop to upload",
    step1: "Choose a rate", step1Sub: "any rate, or slow motion; audio, subtitles and colour are kept", step2: "Preview a few seconds", step2Sub: "before and after, side by side, frame by frame", step3: "Interpolate the whole video", step3Sub: "an interrupted run resumes where it stopped",
    byPath: "Use a video that is already on the server", pathLabel: "Path under an allowed folder", use: "Use",
    queue: "Queue and results", videos: "Videos on the server", tokenTitle: "This server asks for its token", token: "Token",
    tokenWrong: "This is not the server's token.", open: "Open", close: "Close", uploading: "Uploading {name}", waitingUpload: "{name} waits for its turn", stopUpload: "Stop",
    uploadWaits: "Connection lost at {size}; resumes when it is back", looking: "Reading {name} …", remove: "Remove", removed: "{name} removed", undo: "Undo",
    refused: "{name} cannot be used: {why}",
    size: "Size", rate: "Rate", length: "Length", frames: "Frames", codec: "Codec", file: "File", streams: "Also in the file",
    audio: "audio", subtitle: "subtitles", attachment: "attachment", data: "data", video: "video", fps: "{n} fps", vfr: "variable frame rate", interlaced: "interlaced", rotated: "rotated by {n}°",
    rateTitle: "From {n} fps to", times: "{n}×", slow: "Slow {n}×", slowLong: "Slow motion {n}×", otherRate: "Another rate or factor", unitFps: "fps", unitTimes: "× the rate", unitSlow: "× slower",
    predictFrames: "Frames", predictRate: "Rate and length", predictSize: "Size, about", predictTime: "Time, about",
    unknownTime: "after a preview", basisVideo: "Size and time estimated from your runs of this video.", basisOther: "Size and time estimated from runs of other videos; run a preview for a better estimate.", basisNothing: "Nothing has run here yet: the size is a rough estimate, and a preview gives the time.",
    options: "More options", cuts: "Scene changes", cutsAuto: "detect", cutsOff: "there are none", dedup: "Duplicate frames", dedupOff: "keep them", dedupAuto: "interpolate them (animation)",
    overlays: "Logos and subtitles in the image", staticAuto: "keep them static", staticOff: "treat like the rest", model: "Model", quality: "Quality (CRF, lower is finer)", format: "Codec", formatAuto: "automatic", container: "Container",
    speedRamp: "Speed ramps", maxSize: "Longer side at most", maxSizeNone: "as the source", pixels: "{n} pixels", scale: "Size", scaleWrong: "Give a size as 1280x720, or 1280:-2 to keep the shape", shutter: "Motion blur", shutterOff: "none", shutterCinema: "180° (cinema)", seamless: "Seamless loop", deinterlace: "Interlaced video", deinterlaceAuto: "detect and deinterlace", deinterlaceOff: "leave as it is", start: "Start", end: "End", startHint: "0:00", endHint: "end of the video", rateWrong: "Give a number such as 90, 59.94 or 60000/1001", timeWrong: "Give a time as 90, 1:30 or 1:02:03.5",
    keepAudio: "Keep audio", keepSubtitles: "Keep subtitles", slowAudio: "Slow the audio down too", paintMask: "Paint a mask …", useMask: "Use the painted mask",
    previewTitle: "Preview", previewAt: "Start of the preview", previewLength: "Length of the preview", seconds: "{n} s", preview: "Preview", whole: "Interpolate the whole video", wholePart: "Interpolate this part", copy: "Copy as a command …",
    copyTitle: "The same run elsewhere", commandLine: "Command line", python: "Python", copyIt: "Copy", copied: "Copied", maskNote: "Save the painted mask beside the video as {name}.",
    queued: "waiting", queuedAt: "waiting, place {n}", running: "running", paused: "paused", done: "done", failed: "failed", cancelled: "cancelled", pausing: "pausing", cancelling: "cancelling", comparison: "preparing the comparison", joining: "joining", starting: "starting",
    pause: "Pause", resume: "Resume", cancel: "Cancel", retry: "Try again", view: "Compare", download: "Download", previewKind: "preview", fullKind: "whole video", left: "{t} left", ofFrames: "{a} of {b} frames", took: "took {t}", move: "Move in the queue: drag, or arrow keys",
    inSeconds: "{s} s", inMinutes: "{m} min {s} s", inHours: "{h} h {m} min",
    before: "before, {r} fps", after: "after, {r} fps", slider: "Slider", side: "Side by side", difference: "Difference ×3", ab: "A/B", showing: "A/B shows {which}", beforeShort: "before", afterShort: "after", play: "Play", pausePlay: "Pause", back: "Back one frame", forward: "Forward one frame", quarter: "¼ speed", half: "½ speed", normal: "1×", sliderLabel: "Border between before and after", seek: "Position",
    zoomIn: "Zoom in", zoomOut: "Zoom out", zoomReset: "Fit", fullScreen: "Full screen", loopFrom: "Loop from", loopTo: "to", loopOff: "off", loopIn: "Loop from here", loopOut: "Loop to here", loopClear: "Loop everything", loopSet: "loop {a} – {b}",
    frameOf: "frame {a} of {b}", nCuts: "Scene changes: {n}", nHolds: "Held stretches: {n}", nDups: "Duplicate stretches: {n}", nLow: "Frames to check: {n}", lowHelp: "Interpolated frames that agree least with both neighbours, worst first", lowOf: "Frame to check, {a} of {b}", certain: "confidence {n} %", checkRegion: "{n} % of this frame disagrees with its neighbours, most of it in the marked box. Look there for torn or doubled edges.", checkHelp: "{n} % of this frame disagrees with its neighbours. Look for torn or doubled edges where something fast, thin or newly visible moves.", nothingMarked: "Nothing marked: no scene changes, held or duplicate stretches, or frames to check",
    keys: "<space> play · <,> <.> one frame · <a> A/B · <[> <]> marks · <d> frames to check · <i> <o> loop from, to · <+> <−> <0> zoom · <f> full screen · <q> speed · <1>–<4> views",
    maskTitle: "Paint what must stay static", maskHelp: "Painted parts come from the nearest source frame: logos, subtitles, a clock. Drag to paint, or use the buttons.", brush: "Brush", paint: "Paint", erase: "Erase", clear: "Clear", save: "Save", topLeft: "Top left", topRight: "Top right", bottomLeft: "Bottom left", bottomRight: "Bottom right", bottomStrip: "Subtitle strip", noMask: "Remove the mask", maskSaved: "Mask saved",
    saidDone: "{name} is done", saidFailed: "{name} failed: {why}", saidReady: "{name} can be used", cannotPlay: "This browser cannot play the comparison; download the result instead.",
    docs: "HTTP API", apiIntro: "Every route of the HTTP API. Errors are JSON with a code for programs and a message for people.",
  },
  zh: {
    skip: "跳到正文", tagline: "视频插帧", offline: "连接已断开，正在重试", theme: "浅色或深色",
    add: "添加视频", drop: "把视频拖到这里，或点击选择", dropSub: "文件只保存在本服务器上，过一段时间会自动删除。", dropAnywhere: "松开即上传",
    step1: "选择帧率", step1Sub: "任意帧率或慢动作；音频、字幕和颜色都会保留", step2: "预览几秒", step2Sub: "处理前后并列，逐帧比较", step3: "处理整个视频", step3Sub: "中断后会从中断处继续",
    byPath: "使用服务器上已有的视频", pathLabel: "允许目录下的路径", use: "使用",
    queue: "队列与结果", videos: "服务器上的视频", tokenTitle: "此服务器需要令牌", token: "令牌",
    tokenWrong: "令牌不正确。", open: "打开", close: "关闭", uploading: "正在上传 {name}", waitingUpload: "{name} 等待上传", stopUpload: "停止",
    uploadWaits: "连接在 {size} 处中断；恢复后会继续", looking: "正在读取 {name} …", remove: "移除", removed: "已移除 {name}", undo: "撤销",
    refused: "无法使用 {name}：{why}",
    size: "尺寸", rate: "帧率", length: "时长", frames: "帧数", codec: "编码", file: "文件", streams: "文件中还有",
    audio: "音频", subtitle: "字幕", attachment: "附件", data: "数据", video: "视频", fps: "{n} 帧/秒", vfr: "可变帧率", interlaced: "隔行", rotated: "旋转 {n}°",
    rateTitle: "从 {n} 帧/秒到", times: "{n}×", slow: "慢 {n}×", slowLong: "慢动作 {n}×", otherRate: "其他帧率或倍数", unitFps: "帧/秒", unitTimes: "× 帧率", unitSlow: "× 慢动作",
    predictFrames: "帧数", predictRate: "帧率与时长", predictSize: "大小（约）", predictTime: "用时（约）",
    unknownTime: "预览后可知", basisVideo: "大小和用时根据本视频之前的运行估算。", basisOther: "大小和用时根据其他视频的运行估算；先预览会更准确。", basisNothing: "这里还没有运行过任何任务：大小只是粗略猜测，预览后可知用时。",
    options: "更多选项", cuts: "场景切换", cutsAuto: "自动检测，不混合", cutsOff: "没有切换", dedup: "重复帧", dedupOff: "保留", dedupAuto: "插成真实运动（动画）",
    overlays: "画面中的台标与字幕", staticAuto: "保持静止", staticOff: "与其他部分同样处理", model: "模型", quality: "质量（CRF，越小越好）", format: "编码", formatAuto: "自动", container: "封装",
    speedRamp: "分段速度（局部慢动作）", maxSize: "长边上限", maxSizeNone: "与源相同", pixels: "{n} 像素", scale: "尺寸", scaleWrong: "尺寸写作 1280x720，或 1280:-2 以保持比例", shutter: "运动模糊", shutterOff: "无", shutterCinema: "180°（如电影）", seamless: "无缝循环", deinterlace: "隔行视频", deinterlaceAuto: "自动检测并去隔行", deinterlaceOff: "保持原样", start: "起点", end: "终点", startHint: "0:00", endHint: "视频末尾", rateWrong: "请输入数字，例如 90、59.94 或 60000/1001", timeWrong: "时间写作 90、1:30 或 1:02:03.5",
    keepAudio: "保留音频", keepSubtitles: "保留字幕", slowAudio: "音频一起放慢", paintMask: "涂抹遮罩 …", useMask: "使用涂好的遮罩",
    previewTitle: "预览", previewAt: "预览起点", previewLength: "预览长度", seconds: "{n} 秒", preview: "预览", whole: "处理整个视频", wholePart: "处理这一段", copy: "复制为命令 …",
    copyTitle: "在别处执行同样的任务", commandLine: "命令行", python: "Python", copyIt: "复制", copied: "已复制", maskNote: "把涂好的遮罩存为视频旁边的 {name}。",
    queued: "等待中", queuedAt: "等待中，第 {n} 位", running: "运行中", paused: "已暂停", done: "完成", failed: "失败", cancelled: "已取消", pausing: "正在暂停", cancelling: "正在取消", comparison: "正在准备对比", joining: "正在合成", starting: "正在启动",
    pause: "暂停", resume: "继续", cancel: "取消", retry: "重试", view: "对比", download: "下载", previewKind: "预览", fullKind: "整个视频", left: "还剩 {t}", ofFrames: "{a} / {b} 帧", took: "用时 {t}", move: "调整队列顺序：拖动或方向键",
    inSeconds: "{s} 秒", inMinutes: "{m} 分 {s} 秒", inHours: "{h} 小时 {m} 分",
    before: "之前，{r} 帧/秒", after: "之后，{r} 帧/秒", slider: "滑块", side: "并排", difference: "差异 ×3", ab: "A/B", showing: "A/B 显示{which}", beforeShort: "之前", afterShort: "之后", play: "播放", pausePlay: "暂停", back: "后退一帧", forward: "前进一帧", quarter: "¼ 速", half: "½ 速", normal: "1×", sliderLabel: "之前与之后的分界", seek: "位置",
    zoomIn: "放大", zoomOut: "缩小", zoomReset: "适应", fullScreen: "全屏", loopFrom: "循环起", loopTo: "止", loopOff: "关", loopIn: "从此处循环", loopOut: "循环到此处", loopClear: "循环全部", loopSet: "循环 {a} – {b}",
    frameOf: "第 {a} 帧，共 {b} 帧", nCuts: "{n} 处切换", nHolds: "{n} 段停留", nDups: "{n} 段重复", nLow: "待检查：{n} 帧", lowHelp: "与前后帧最不一致的插值帧，从最差的开始", lowOf: "待检查第 {a} 帧，共 {b} 帧", certain: "置信度 {n}%", checkRegion: "这一帧有 {n}% 与前后帧不一致，多在框出的区域内。请留意那里的边缘是否撕裂或重影。", checkHelp: "这一帧有 {n}% 与前后帧不一致。请留意快速、细小或刚露出的物体，其边缘可能撕裂或重影。", nothingMarked: "没有标记：无切换、停留、重复或待检查的帧",
    keys: "<空格> 播放 · <,> <.> 单帧 · <a> A/B · <[> <]> 标记 · <d> 待检查 · <i> <o> 循环起止 · <+> <−> <0> 缩放 · <f> 全屏 · <q> 速度 · <1>–<4> 视图",
    maskTitle: "涂出必须保持静止的部分", maskHelp: "涂过的部分取自最近的原始帧：台标、字幕、时钟。拖动涂抹，或使用按钮。", brush: "画笔", paint: "涂抹", erase: "擦除", clear: "清空", save: "保存", topLeft: "左上", topRight: "右上", bottomLeft: "左下", bottomRight: "右下", bottomStrip: "字幕区", noMask: "去掉遮罩", maskSaved: "遮罩已保存",
    saidDone: "{name} 已完成", saidFailed: "{name} 失败：{why}", saidReady: "{name} 可以使用了", cannotPlay: "此浏览器无法播放对比；请下载结果。",
    docs: "HTTP API", apiIntro: "HTTP API 的全部路由。错误以 JSON 返回：code 供程序使用，message 供人阅读。",
    error: {
      unreadable: "无法读取这个文件：它不是视频，或已损坏。", unsupported: "不支持这种编码或封装。", too_large: "文件太大。", too_many_pixels: "画面尺寸太大。",
      too_long: "视频太长。", too_slow: "读取这个文件花的时间太长。", too_many_frames: "帧数太多。", too_many_jobs: "未完成的任务太多；请等待或取消一些。", too_many_uploads: "未完成的上传太多。",
      no_room: "服务器上没有足够的空间。", forbidden: "这个路径不在允许的目录中。", worker_died: "处理进程两次中途退出。", source_gone: "原视频已被移除。", conflict: "现在不能这样做。", invalid: "这个选择无法执行。", not_found: "已不存在。", busy: "服务器正忙，请稍候。", too_many_guesses: "错误令牌过多；请一分钟后再试。",
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

// "1:30" or "90" -> 90; null for nothing, NaN for what is no time
export function timeValue(text) {
  if (!text.trim()) return null;
  if (!/^\d+(:[0-5]?\d){0,2}(\.\d+)?$/.test(text.trim())) return NaN;
  return text.trim().split(":").reduce((total, part) => total * 60 + Number(part), 0);
}

export const date = (seconds) => new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(seconds * 1000));
