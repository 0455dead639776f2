import { renderScript } from "./batch.ts";
import { killAfterSeconds } from "./bounded-step.ts";
import type { Breakpoint, PlanPoint } from "./plan-points.ts";
import { functions, preconditionSeconds, takeLock, type PlanScriptOptions } from "./plan-script.ts";
import { hasAttributes, modeOf, ownerOf, prelude, split } from "./render-paths.ts";
import { quote } from "./shell-quote.ts";
import type { UploadStep } from "./step.ts";

/*
 * One upload, as the device takes it: a script, and behind it on the same standard input a line that says where the content begins, and the content.
 *
 * The content goes to a partial file beside the place, whose name has the content's digest in it. What an earlier run left there is hashed and its size and digest are said (`ready`); the
 * other side answers with that size, or with 0 when it is not the beginning of its file. So whether a cut came from the line, from the provider's end or from a power cut, what arrived is either
 * used or overwritten, and never believed. Only a whole file with the right digest gets the name.
 *
 * The line decides how long it takes, so there is no deadline for the whole: nothing arriving for a minute ends it, and while something arrives the lock's expiry is set anew.
 */

/** After this long without a byte the device gives up. */
export const silenceSeconds = 60;
/** For the other side to find out where the content begins: it hashes as much as the device has. */
const answerSeconds = 300;
/** Hashing and flushing take at least a part of this speed on the slowest card; a hung one must end. */
const slowestBytesPerSecond = 2 * 1024 * 1024;
/** What a file system may need beside the content. */
const slackBytes = 1024 * 1024;
/** The lock counts as held by something hung when its expiry was not set anew for this long. */
const expirySeconds = 300;
const renewSeconds = 20;

/** The line before the content. */
export const offsetLine = (offset: number): string => `${String(offset).padStart(20)}\n`;
const offsetLineBytes = offsetLine(0).length;

/** Where content of this digest is gathered: beside the place, hidden. */
export function partialOf({ path, sha256 }: Pick<UploadStep, "path" | "sha256">): string {
  const { directory, name } = split(path);
  return `${directory === "/" ? "" : directory}/.${name}.${sha256.slice(0, 16)}.edgeseal-partial`;
}

const storeSeconds = (bytes: number): number => 120 + Math.ceil(bytes / slowestBytesPerSecond);

/**
 * Runs something that may take long beside a loop that says every second that it goes on (and how far, by the size of a file), and ends it when its time is over or, where a file is watched,
 * when that has not grown for so long.
 */
const attended = (bytes: number): string => `
busy= ticker=
tick() {
  # Its last sleep outlives it, and must keep neither the input nor a mounted folder in use.
  exec 3<&- 2>/dev/null
  cd /
  quiet=0 ticks=0 size= last=
  while :; do
    sleep 1 >/dev/null 9>&-
    quiet=$((quiet + 1)) ticks=$((ticks + 1))
    if [ -n "$1" ]; then
      size=$(stat -c %s "$1")
      [ "$size" = "$last" ] || { last=$size quiet=0; }
    fi
    say going-on "$size"
    [ $((ticks % ${renewSeconds})) -ne 0 ] || lock_renew
    if [ "$quiet" -ge "$2" ]; then true >"$work/quiet"; kill "$busy"; exit; fi
  done
}
attended() {
  limit=$1 watched=$2
  shift 2
  "$@" &
  busy=$!
  tick "$watched" "$limit" &
  ticker=$!
  code=0
  wait "$busy" || code=$?
  busy=
  # A shell that was just forked loses every other signal.
  kill -s KILL "$ticker"
  wait "$ticker" || :
  ticker=
  return "$code"
}
hash() { exec sha256sum <"$1" >"$work/digest"; }
digest_of() {
  attended ${storeSeconds(bytes)} '' hash "$1" || fail "$1 could not be read to its end"
  read -r digest _ <"$work/digest"
}`;

function transfer(id: string, step: UploadStep): string {
  const { directory, name } = split(step.path);
  const { user, group } = ownerOf(step.owner);
  const partial = `.${name}.${step.sha256.slice(0, 16)}.edgeseal-partial`;
  const store = storeSeconds(step.bytes);
  return `${prelude}
exec 3<&0 </dev/null
${attended(step.bytes)}
trap 'for each in $busy $ticker; do kill -s KILL "$each"; done 2>/dev/null' EXIT
trap 'exit 143' HUP INT TERM
enter ${quote(directory)} || fail "the directory $missing does not exist"
case $(stat -c %A .) in ?????w* | ????????w*) shared=yes ;; *) shared= ;; esac
if [ -n "$shared" ] || [ "$(stat -c %u .)" != 0 ]; then fail "$PWD can be changed by others than root: nothing is put there piece by piece"; fi
name=${quote(`./${name}`)}
partial=${quote(`./${partial}`)}
if [ -d "$name" ] && ! [ -L "$name" ]; then fail ${quote(`${step.path} is a directory`)}; fi
# What was begun for another content.
for other in ${quote(`./.${name}.`)}*.edgeseal-partial; do [ "$other" = "$partial" ] || rm -f -- "$other"; done
if [ -f "$name" ] && ! [ -L "$name" ] && [ "$(stat -c %s "$name")" = ${step.bytes} ]; then
  digest_of "$name"
  if [ "$digest" = ${step.sha256} ]; then
    rm -f -- "$partial"
    if ! ${hasAttributes('"$name"', step.mode, step.owner)}; then
      chown ${quote(`${user}:${group}`)} "$name"
      chmod ${modeOf(step.mode)} "$name"
      sync "$name"
    fi
    exit 0
  fi
fi
have=0 digest=-
if [ -f "$partial" ] && ! [ -L "$partial" ]; then have=$(stat -c %s "$partial"); else rm -f -- "$partial"; fi
if [ "$have" -gt ${step.bytes} ]; then rm -f -- "$partial"; have=0; fi
[ "$have" -eq 0 ] || digest_of "$partial"
set -- $(stat -f -c '%a %S' .)
free=$(($1 * $2)) need=$((${step.bytes} - have))
if [ "$free" -lt $((need + ${slackBytes})) ]; then say no-room ${quote(id)} "$need" "$free"; exit 75; fi
say ready "$have" "$digest" || exit 141
answer() { exec head -c ${offsetLineBytes} <&3 >"$work/offset"; }
attended ${answerSeconds} '' answer || fail 'the other side did not say where the content begins'
offset=
read -r offset <"$work/offset" || exit 141
if [ "$offset" != "$have" ]; then
  [ "$offset" = 0 ] || fail 'the other side did not say where the content begins'
  rm -f -- "$partial"
  have=0
fi
true >>"$partial"
receive() { exec head -c $((${step.bytes} - have)) <&3 >>"$partial"; }
[ "$have" -eq ${step.bytes} ] || attended ${silenceSeconds} "\${PWD%/}/\${partial#./}" receive || {
  [ ! -e "$work/quiet" ] || fail 'nothing arrived for ${silenceSeconds} s; what did is kept, and the next run goes on from there'
  exit 1
}
size=$(stat -c %s "$partial")
[ "$size" = ${step.bytes} ] || fail "$size of ${step.bytes} bytes arrived; they are kept, and the next run goes on from there"
digest_of "$partial"
if [ "$digest" != ${step.sha256} ]; then
  rm -f -- "$partial"
  fail "what arrived has the SHA-256 digest $digest, not ${step.sha256}; it was thrown away"
fi
if ! lock_holds; then say fenced ${quote(id)}; exit 75; fi
chown ${quote(`${user}:${group}`)} "$partial"
chmod ${modeOf(step.mode)} "$partial"
flush() { exec sync "$partial"; }
attended ${store} '' flush || fail ${quote(`${step.path} could not be written to the disk`)}
mv -fT -- "$partial" "$name"
sync .
`;
}

/**
 * The script of an upload's exec.
 * @throws TypeError when the step holds something that can't be meant (a relative path, a digest in another form).
 */
export function renderUpload(
  point: Pick<PlanPoint, "id"> & { readonly step: UploadStep },
  options: Omit<PlanScriptOptions, "manifest">,
): string {
  const { step } = point;
  requireMeant(step);
  const id = quote(point.id);
  const { breakpoint, nonce } = options;
  const pause = (when: Breakpoint["when"]): string =>
    breakpoint?.at === point.id && breakpoint.when === when ? `break_here ${id} ${when}` : ":";
  const body = [
    ...functions(options, expirySeconds),
    takeLock,
    pause("before"),
    // plan_step itself is for what has no need of standard input.
    `if [ -z "$stopped" ]; then say begin-step ${id} || lost; fi`,
    ...(step.precondition === undefined
      ? []
      : [
          `if [ -z "$stopped" ]; then`,
          `  bounded ${preconditionSeconds} ${killAfterSeconds} ${quote(step.precondition)} ''`,
          `  if [ "$code" -ne 0 ]; then stopped=precondition; say precondition ${id} "$code" "$(kept)"; fi`,
          `fi`,
        ]),
    `if [ -z "$stopped" ]; then`,
    `(`,
    transfer(point.id, step),
    `) 2>"$work/log"`,
    `code=$?`,
    `case $code in`,
    `  0) say end-step ${id} || lost ;;`,
    // It said itself why.
    `  75) stopped=failed ;;`,
    `  *) stopped=failed; say failed ${id} 1 0 "$(kept)" ;;`,
    `esac`,
    `fi`,
    pause("after"),
  ].join("\n");
  return renderScript(body, nonce);
}

function requireMeant({ title, source, bytes, sha256 }: UploadStep): void {
  if (!/^[0-9a-f]{64}$/.test(sha256))
    throw new TypeError(`'${title}' names no SHA-256 digest in lower-case hex: '${sha256}'`);
  if (!Number.isSafeInteger(bytes) || bytes < 0)
    throw new TypeError(`'${title}' has no size in whole bytes: ${bytes}`);
  if (!source.startsWith("/")) throw new TypeError(`'${title}' is from no absolute path: '${source}'`);
}
