"""What actors announce is kept, and not without a bound."""

from callboard.supervisor.status import MOST_ANNOUNCED, Announcement, announced


def test_of_each_actor_the_latest_announcements_are_kept():
    entries = [Announcement(actor="web.0", text="http://here")]
    for number in range(3 * MOST_ANNOUNCED):
        entries = announced(entries, Announcement(actor="chatty.0", text=str(number)))
    assert entries[0].actor == "web.0"
    texts = [entry.text for entry in entries[1:]]
    assert texts == [str(number) for number in range(2 * MOST_ANNOUNCED, 3 * MOST_ANNOUNCED)]
