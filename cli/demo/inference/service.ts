import { holds, onNode, type DemoContext } from "../step.ts";
import { port } from "./site.ts";

/*
 * What is served, seen from outside the provider: by a prompt, and by what the kernel says of the process.
 */

/** A request to llama-server's completion endpoint, by the tools that the node has. */
const complete = (prompt: string, tokens: number): string => `perl -MIO::Socket::INET -e '
my $body = q({"prompt":"${prompt}","n_predict":${tokens},"temperature":0,"cache_prompt":false});
my $server = IO::Socket::INET->new(PeerAddr => "127.0.0.1:${port}", Timeout => 30) or die "no connection: $!\\n";
print {$server} "POST /completion HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\nContent-Length: ", length $body, "\\r\\nConnection: close\\r\\n\\r\\n$body";
local $/; print <$server>;'`;

/** Sends the model a prompt, and gives the answer's text and the body that it came in. */
export async function ask(
  context: DemoContext,
  prompt: string,
  tokens: number,
): Promise<{ readonly text: string; readonly body: string }> {
  const answer = await onNode(context, complete(prompt, tokens));
  const body = answer.slice(answer.indexOf("\r\n\r\n") + 4);
  holds(context, answer.startsWith("HTTP/1.1 200 "), "a prompt gets an answer", answer);
  return { text: /"content":"((?:[^"\\]|\\.)*)"/.exec(body)?.[1] ?? "", body };
}

/** Holds that the answer is the model's, and says how fast it came. */
export async function answers(context: DemoContext): Promise<void> {
  const { text, body } = await ask(context, "The capital of France is", 8);
  holds(
    context,
    /capital|France|Paris|city/.test(text),
    `the model knows what was asked: "The capital of France is" ${JSON.stringify(text)}`,
    body,
  );
  const rate = (name: string): string => Number(new RegExp(`"${name}":([0-9.]+)`).exec(body)?.[1]).toFixed(2);
  context.say(
    `      prompt ${rate("prompt_per_second")} tokens/s, answer ${rate("predicted_per_second")} tokens/s: emulated, and so no measure of a Pi 5`,
  );
}

/** The kernel's own words on the process that serves. */
export async function confinedInEffect(context: DemoContext): Promise<void> {
  const status = await onNode(
    context,
    `pid=$(pgrep -o -u edgeseal-inference llama-server) || exit 1
grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$pid/status
printf 'label '; tr -d '\\0' </proc/$pid/attr/current; echo
printf 'interfaces'; tail -n +3 /proc/$pid/net/dev | sed 's/:.*//' | tr -d ' ' | sed 's/^/ /' | tr -d '\\n'; echo`,
  );
  const facts: readonly (readonly [RegExp, string])[] = [
    [/^Uid:\t([1-9]\d*)\t\1\t\1\t\1$/m, "the server runs as a user of its own, not root"],
    [/^CapEff:\t0+$/m, "it has no capability"],
    [/^CapBnd:\t0+$/m, "and can gain none"],
    [/^NoNewPrivs:\t1$/m, "no program it runs gains privileges"],
    [/^Seccomp:\t2$/m, "the kernel filters its system calls"],
    [/^label \S*edgeseal-inference\S* \(enforce\)$/m, "AppArmor confines it, enforced"],
    [/^interfaces lo$/m, "of the network it has its own loopback alone"],
  ];
  for (const [pattern, claim] of facts) holds(context, pattern.test(status), claim, status);
}
