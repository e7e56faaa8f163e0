export default function Page() {
  return (
    <>
      <h1>About</h1>
      <p>What is measured is the build, not this page.</p>
    </>
  );
}
