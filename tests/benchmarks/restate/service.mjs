// The three steps as a handler of Restate's TypeScript SDK, after its example of event processing from Kafka: the same
// as service.py. DOWNSTREAM_URL and PORT are in the environment.
import "./polyfill.mjs";
import { Pool } from "undici";

const restate = await import("@restatedev/restate-sdk");

const BUSY = "NOT_READY";
const BUSY_SECONDS = 5;
const downstream = new Pool(process.env.DOWNSTREAM_URL, { connections: null, pipelining: 1 });

async function call(step, key, body) {
  const answer = await downstream.request({
    path: `/${step}`,
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": key },
    body: JSON.stringify(body),
  });
  const text = await answer.body.text();
  if (answer.statusCode === 429 || answer.statusCode === 503) return { status: BUSY };
  if (answer.statusCode >= 300) throw new Error(`${step}: ${answer.statusCode}`);
  return JSON.parse(text);
}

async function patiently(ctx, step, body) {
  for (;;) {
    const answer = await ctx.run(step, () => call(step, `${ctx.request().id}/${step}`, body));
    if (answer.status !== BUSY) return answer;
    await ctx.sleep({ seconds: BUSY_SECONDS });
  }
}

const updates = restate.object({
  name: "UserUpdates",
  handlers: {
    execute: async (ctx, event) => {
      const { userId } = await patiently(ctx, "profile", { user: ctx.key, profile: event.profile });
      const { roleId } = await patiently(ctx, "permissions", { userId, permissions: event.permissions });
      await patiently(ctx, "resources", { userId, roleId, resources: event.resources });
    },
  },
});

await restate.serve({ services: [updates], port: Number(process.env.PORT) });
