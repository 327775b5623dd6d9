"""Memory that is followed while a process works."""

import sys
import time

import numpy as np
import pytest

from launch.timing import memory


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_that_is_followed_is_the_process_own(tmp_path):
    """64 MB of NumPy are seen at once and after they are gone, 64 MB of a mapped file never."""
    seen, before = memory.follow(), memory.anonymous()
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (2**26,))
    mapped[:] = 1
    assert memory.anonymous() - before < 32
    own = np.ones(2**26, np.uint8)
    assert memory.anonymous() - before > 48
    time.sleep(0.1)
    del own
    seen["over"] = True
    assert seen["peak"] - before > 48
