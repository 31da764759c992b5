// The peer page: ask for channels, follow them, close them.

import { peers as offer, start as startForm } from "./ask.js";
import { named, start as startChannels } from "./channels.js";
import { start as startDetail } from "./detail.js";
import { by } from "./dom.js";
import { on } from "./live.js";
import { onPeers, start as startPeers } from "./peers.js";
import { queue } from "./queue.js";
import { start } from "./shell.js";

startForm();
startChannels();
startDetail();
startPeers();
onPeers(offer);
on("queue", queue(by("queue"), named));
start();
