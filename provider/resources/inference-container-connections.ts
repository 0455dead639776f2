import type { InferenceContainerInputs } from "./inference-container-inputs.ts";

/*
 * How many connections a server takes. llama-server has a thread for each, without a limit of its own; a thread that it may not make any more (`tasksMax`) ends it. So there are as many from the
 * start as there may be connections, and what comes beyond waits, or is closed at the port.
 */

/** Of `tasksMax`, what is podman's own: at its limit a container must not keep it from cleaning up. */
export const tasksOfPodman = 24;
/** What a server has besides `threads` and one for each connection: 5 of llama-server, and those that it makes for the few connections that its files let it take beyond. */
const tasksOfServer = 12;
/** Connections that only wait, on a node that answers few at once. */
const mostWaiting = 60;
/** Of its connections, those that are not led to it from the port: whoever holds all of these must not keep the question for its health from being answered. */
export const connectionsKept = 4;

/** Connections that a server takes at once: what `tasksMax` leaves. */
export const connectionsOf = ({
  tasksMax,
  threads,
  parallel,
}: Pick<InferenceContainerInputs, "tasksMax" | "threads" | "parallel">): number =>
  Math.min(tasksMax - tasksOfPodman - tasksOfServer - threads, parallel + mostWaiting);

/** The least `tasksMax` that lets some connections wait while `parallel` are answered. */
export const leastTasks = ({
  threads,
  parallel,
}: Pick<InferenceContainerInputs, "threads" | "parallel">): number =>
  threads + parallel + tasksOfPodman + tasksOfServer + 2 * connectionsKept;
